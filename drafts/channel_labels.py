"""Draft for issue 16: which channels can leave any torch module, by labels that run through its operations.

Every element of every tensor of one recorded run carries the number of the channel that it belongs to (-1: of
none that can leave). Operations that only move data are run on the labels themselves; the others have a rule.
`zero` says whether a masked channel is exactly 0 there: only then may a layer read it and lose it.
"""
from __future__ import annotations
import operator
from dataclasses import dataclass
import torch
import torch.nn.functional as F
from torch import nn
from nnopt_lib.backends.torch.tracing import OUTSIDE, Call, record

NONE = -1

@dataclass
class Value:
    labels: torch.Tensor  # int64, the shape of the value
    zero: bool = True

class Union:
    def __init__(self): self.parent = [ ]
    def fresh(self, n):
        first = len(self.parent); self.parent += range(first, first + n); return torch.arange(first, first + n)
    def find(self, a):
        while self.parent[a] != a:
            self.parent[a] = self.parent[self.parent[a]]; a = self.parent[a]
        return a
    def join(self, a, b):
        a, b = self.find(a), self.find(b)
        if a != b: self.parent[b] = a

ZERO_AT_ZERO = {nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardtanh, nn.Tanh, nn.PReLU, nn.Dropout, nn.Dropout2d, nn.Identity,
    F.relu, F.gelu, F.silu, F.relu6, F.leaky_relu, torch.relu, torch.tanh, torch.relu_, F.dropout, "relu", "tanh", "relu_", "contiguous", "clone", "detach", F.hardswish, F.hardtanh, F.elu, F.mish, torch.neg, "neg"}
NOT_ZERO = {nn.Sigmoid, nn.Hardsigmoid, F.sigmoid, torch.sigmoid, "sigmoid", torch.exp, "exp", nn.Softplus, F.hardsigmoid}
MOVES = {nn.Flatten, nn.Unflatten, torch.flatten, torch.reshape, torch.squeeze, "flatten", "view", "reshape", "squeeze", "unsqueeze", torch.unsqueeze, torch.permute, "permute", torch.transpose, "transpose",
    torch.cat, torch.concat, torch.stack, torch.chunk, "chunk", torch.split, "split", torch.unbind, "unbind", "__getitem__", "expand", "expand_as", "repeat", nn.PixelShuffle, F.pixel_shuffle, nn.ChannelShuffle, "T", "narrow", torch.narrow, nn.ZeroPad2d, torch.roll, "roll", "swapaxes", torch.swapaxes, "view_as", "movedim", "unflatten", torch.unflatten, "getitem"}
JOINS = {operator.add, torch.add, "add", "add_", "__add__", "__iadd__", "__radd__", operator.iadd, torch.sub, "sub", "__sub__"}
TIMES = {operator.mul, torch.mul, "mul", "mul_", "__mul__", "__imul__", "__rmul__", operator.imul, torch.div, "div", "__truediv__"}
WINDOWS = {nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, F.max_pool2d, F.avg_pool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, F.adaptive_avg_pool2d, F.adaptive_avg_pool1d, F.adaptive_max_pool2d, nn.Upsample, F.interpolate, F.max_pool1d, F.avg_pool1d, nn.UpsamplingNearest2d}
SOFTMAX = {nn.Softmax, nn.LogSoftmax, F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, "softmax", "log_softmax"}
MEANS = {torch.mean, "mean", torch.sum, "sum", torch.amax, "amax"}
MATMULS = {torch.matmul, "matmul", "__matmul__", torch.bmm, "bmm", "__rmatmul__"}

class Reading:
    def __init__(self, model, x):
        self.union, self.fixed, self.made, self.whole = Union(), set(), {}, {}
        self.reads, self.values = {}, {}
        calls, end, _ = record(model, x[:1])
        self.values[calls[0]] = Value(torch.full(tuple(calls[0].shape), NONE))
        for call in calls[1:]:
            self.step(call)
        for one in self.calls_in(end): self.barrier([self.values[one]], "an output of the model")
    def calls_in(self, v):
        if isinstance(v, Call): return [v]
        if isinstance(v, (list, tuple)): return [c for o in v for c in self.calls_in(o)]
        if isinstance(v, dict): return [c for o in v.values() for c in self.calls_in(o)]
        return []
    def barrier(self, values, why):
        for v in values:
            for label in v.labels.unique().tolist():
                if label != NONE:
                    root = self.union.find(label)
                    self.fixed.add(root); self.whole.setdefault(root, why)
    def join(self, a, b):
        a, b = torch.broadcast_tensors(a, b)
        pairs = torch.stack([a.flatten(), b.flatten()], 1).unique(dim=0).tolist()
        for p, q in pairs:
            if p == q: continue
            if p == NONE or q == NONE: self.fix(q if p == NONE else p, "joined with what cannot leave")
            else: self.union.join(p, q)
        return torch.where(a == NONE, b, a)
    def fix(self, label, why):
        root = self.union.find(label); self.fixed.add(root); self.whole.setdefault(root, why)
    def along(self, value, dim, call):
        """The labels along one dimension, if they are the same at all other places."""
        moved = value.labels.movedim(dim, 0).flatten(1)
        if (moved == moved[:, :1]).all(): return moved[:, 0]
        return None
    def step(self, n):
        t = n.target
        if t is OUTSIDE:
            self.values[n] = Value(torch.full(tuple(n.shape), NONE), zero=False); return
        ins = [self.values[c] for c in self.calls_in(list(n.args)) + self.calls_in(list(n.kwargs.values()))]
        try:
            done = self.rule(n, t, ins)
        except Exception as error:
            done = None; self.why = f"{type(error).__name__} {error}"
        if done is None:
            name = getattr(t, "__name__", str(t))
            self.barrier(ins, f"{n.name!r} ({name})")
            self.values[n] = Value(torch.full(tuple(n.shape), NONE), zero=False)
        else: self.values[n] = done
    def swap(self, v):
        if isinstance(v, Call): return self.values[v].labels
        if isinstance(v, list): return [self.swap(o) for o in v]
        if isinstance(v, tuple): return tuple(self.swap(o) for o in v)
        return v
    def rule(self, n, t, ins):
        m, first = n.module, ins[0] if ins else None
        hashable = isinstance(t, (str, type)) or callable(t)
        if isinstance(m, nn.Linear) or isinstance(m, nn.modules.conv._ConvNd):
            dim = -1 if isinstance(m, nn.Linear) else 1
            read = self.along(first, dim, n)
            if read is None: return None
            if not first.zero: self.barrier([first], f"{n.path!r} would read a constant")
            self.reads[n.path] = read
            made = self.union.fresh(n.shape[dim])
            groups = getattr(m, "groups", 1)
            if groups > 1:
                each = torch.cat([read.reshape(groups, -1), made.reshape(groups, -1)], 1)
                for row in each.tolist():
                    for other in row[1:]:
                        if row[0] == NONE: self.fix(other, "in a group with what cannot leave")
                        elif other == NONE: self.fix(row[0], "in a group with what cannot leave")
                        else: self.union.join(row[0], other)
            if n.path in self.made: 
                self.join(self.made[n.path], made)
            self.made[n.path] = made
            shape = [1] * len(n.shape); shape[dim] = -1
            return Value(made.reshape(shape).expand(tuple(n.shape)).clone(), zero=True)
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            return Value(first.labels, True) if self.along(first, 1, n) is not None else None
        if t in ZERO_AT_ZERO: return Value(first.labels, first.zero)
        if t in NOT_ZERO: return Value(first.labels, False)
        if t in MOVES:
            if m is not None: out = m(first.labels.float()).long() if not isinstance(m, (nn.Flatten, nn.Unflatten)) else m(first.labels)
            else:
                args = [self.swap(a) for a in n.args]; kw = {k: self.swap(v) for k, v in n.kwargs.items()}
                out = getattr(args[0], t)(*args[1:], **kw) if isinstance(t, str) else t(*args, **kw)
            if not isinstance(out, torch.Tensor): return [Value(o, first.zero) for o in out]
            return Value(out, all(v.zero for v in ins))
        if t in JOINS or t in TIMES:
            if len(ins) == 1: return Value(first.labels, first.zero if t in TIMES else False)
            labels = [v.labels for v in ins]
            outside = [v for c, v in zip(self.calls_in(list(n.args)), ins) if c.target is OUTSIDE]
            if outside and t in TIMES:
                keep = next(v for v in ins if v not in outside); return Value(keep.labels.expand(tuple(n.shape)), keep.zero)
            zero = any(v.zero for v in ins) if t in TIMES else all(v.zero for v in ins)
            return Value(self.join(*labels), zero)
        if t in WINDOWS:
            read = self.along(first, 1, n)
            if read is None: return None
            shape = [1] * len(n.shape); shape[1] = -1
            return Value(read.reshape(shape).expand(tuple(n.shape)), first.zero)
        if t in SOFTMAX:
            dim = n.kwargs.get("dim", m.dim if m is not None else (n.args[1] if len(n.args) > 1 else -1))
            same = first.labels.movedim(dim, 0)
            return Value(first.labels, False) if (same == same[:1]).all() else None
        if t in MEANS:
            dims = n.kwargs.get("dim", n.args[1] if len(n.args) > 1 else None)
            if dims is None: return None
            dims = [dims] if isinstance(dims, int) else list(dims)
            keepdim = n.kwargs.get("keepdim", n.args[2] if len(n.args) > 2 else False)
            labels = first.labels
            for d in dims:
                moved = labels.movedim(d, 0)
                if not (moved == moved[:1]).all(): return None
            return Value(labels.amax(dims, keepdim=bool(keepdim)), first.zero)
        return None
    def report(self, model):
        total = leave = 0
        for path, made in self.made.items():
            roots = {self.union.find(l) for l in made.tolist()}
            free = [r for r in roots if r not in self.fixed and r not in {self.union.find(f) for f in self.fixed}]
            total += len(made); leave += sum(self.union.find(l) in set(free) for l in made.tolist())
        return leave, total
