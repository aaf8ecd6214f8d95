"""Numbers about networks and about rows: costs, time, reports, statistics. Chapter 02 teaches it."""

from nnopt_lib.measure.costs import Cost, count, count_by_node
from nnopt_lib.measure.reports import Report, report
from nnopt_lib.measure.statistics import (
    accuracy_and_loss,
    by_cluster,
    differences,
    holm,
    interval,
    median_interval,
    p_value,
    paired_difference,
    pareto_front,
)
from nnopt_lib.measure.timing import Latency, latency, peak_memory, size_on_disk, threads, time_in_turns

__all__ = [
    "Cost",
    "Latency",
    "Report",
    "accuracy_and_loss",
    "by_cluster",
    "count",
    "count_by_node",
    "differences",
    "holm",
    "interval",
    "latency",
    "median_interval",
    "p_value",
    "paired_difference",
    "pareto_front",
    "peak_memory",
    "report",
    "size_on_disk",
    "threads",
    "time_in_turns",
]
