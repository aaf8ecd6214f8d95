/* The two figures to play with (book/play.md): drawn from the JSON that stands in the page; nothing is fetched. */
(function () {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";

  function element(parent, name, attributes = {}, text = "") {
    const made = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    parent.append(made);
    return made;
  }

  const band = ([mean, low, high]) => `${mean.toFixed(1)} % [${low.toFixed(1)}, ${high.toFixed(1)}]`;

  /* A slider over sparsity: cells that are kept or removed, and what the network is worth then. */
  function masks(place, { stops, whole }) {
    const id = "play-sparsity";
    const label = element(place, "label", { for: id }, "Sparsity: ");
    const shown = element(label, "strong");
    const slider = element(place, "input", { type: "range", id, min: 0, max: stops.length - 1, step: 1, value: 0 });
    const rows = stops[0].cells.length, columns = stops[0].cells[0].length;
    const svg = element(place, "svg:svg", { role: "img", viewBox: `0 0 ${columns * 8} ${rows * 12}`, class: "play-cells" });
    const cells = [];
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++)
        cells.push(element(svg, "svg:rect", { x: column * 8 + 0.5, y: row * 12 + 0.5, width: 7, height: 11 }));
    const words = element(place, "dl", { class: "play-words", "aria-live": "polite" });
    function show() {
      const stop = stops[Number(slider.value)];
      const text = stop.cells.join("");
      const left = text.split("1").length - 1;
      shown.textContent = String(stop.sparsity);
      slider.setAttribute("aria-valuetext", `sparsity ${stop.sparsity}`);
      cells.forEach((cell, n) => cell.setAttribute("class", text[n] === "1" ? "kept" : "removed"));
      svg.setAttribute("aria-label", `The last layer at sparsity ${stop.sparsity}: ${left} of ${text.length} weights are kept.`);
      words.replaceChildren();
      const facts = {
        "This layer": `${left.toLocaleString("en")} of ${text.length.toLocaleString("en")} weights kept`,
        "Whole network": `${stop.kept.toLocaleString("en")} of ${whole.toLocaleString("en")} weights kept, ${stop.bytes.toLocaleString("en")} bytes`,
      };
      for (const [name, value] of Object.entries(stop.accuracy)) facts[name] = band(value);
      for (const [name, value] of Object.entries(facts)) {
        const pair = element(words, "div");
        element(pair, "dt", {}, name);
        element(pair, "dd", {}, value);
      }
    }
    slider.addEventListener("input", show);
    show();
  }

  /* Candidates of a search: one of them is chosen, by mouse, touch or arrow keys, and told. */
  function front(place, { searches }) {
    const label = element(place, "label", { for: "play-search" }, "Search: ");
    const select = element(label, "select", { id: "play-search" });
    for (const name of Object.keys(searches)) element(select, "option", { value: name }, name);
    const wide = 640, high = 320, left = 50, bottom = 40;
    const svg = element(place, "svg:svg", { viewBox: `0 0 ${wide} ${high}`, class: "play-front", tabindex: 0, role: "listbox" });
    svg.setAttribute("aria-label", "Candidates, from the smallest to the largest; use the arrow keys");
    const words = element(place, "p", { class: "play-words", "aria-live": "polite" });
    let points = [], marks = [], chosen = 0;

    function choose(number) {
      chosen = Math.max(0, Math.min(points.length - 1, number));
      marks.forEach((mark, n) => {
        mark.classList.toggle("chosen", n === chosen);
        mark.setAttribute("aria-selected", n === chosen);
      });
      svg.setAttribute("aria-activedescendant", `play-point-${chosen}`);
      const point = points[chosen];
      words.textContent =
        `${point.structure}: ${point.parameters.toLocaleString("en")} parameters, ${point.macs.toLocaleString("en")} MACs, ` +
        `validation accuracy ${band(point.accuracy)}${point.front ? "; on the front" : ""}.`;
    }

    function draw() {
      points = searches[select.value];
      svg.replaceChildren();
      const most = Math.max(...points.map((p) => p.parameters)), least = Math.min(...points.map((p) => p.parameters));
      const top = Math.max(...points.map((p) => p.accuracy[2])), low = Math.min(...points.map((p) => p.accuracy[1]));
      const x = (v) => left + 15 + ((wide - left - 40) * (v - least)) / (most - least || 1);
      const y = (v) => high - bottom - 10 - ((high - bottom - 30) * (v - low)) / (top - low || 1);
      element(svg, "svg:path", { d: `M${left} 10V${high - bottom}H${wide - 10}`, class: "axis" });
      for (const v of [low, top]) element(svg, "svg:text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, v.toFixed(0) + " %");
      element(svg, "svg:text", { x: x(least), y: high - bottom + 18, "text-anchor": "start" }, least.toLocaleString("en"));
      element(svg, "svg:text", { x: x(most), y: high - bottom + 18, "text-anchor": "end" }, most.toLocaleString("en"));
      element(svg, "svg:text", { x: (left + wide) / 2, y: high - 6, "text-anchor": "middle" }, "parameters");
      marks = points.map((point, n) => {
        const [mean, from, to] = point.accuracy;
        const mark = element(svg, "svg:g", { id: `play-point-${n}`, role: "option", class: point.front ? "front" : "" });
        mark.setAttribute("aria-label", point.structure);
        element(mark, "svg:line", { x1: x(point.parameters), x2: x(point.parameters), y1: y(from), y2: y(to) });
        element(mark, "svg:circle", { cx: x(point.parameters), cy: y(mean), r: 6 });
        mark.addEventListener("click", () => choose(n));
        mark.addEventListener("pointerenter", () => choose(n));
        return mark;
      });
      choose(0);
    }

    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -Infinity, End: Infinity };
    svg.addEventListener("keydown", (event) => {
      if (!(event.key in steps)) return;
      event.preventDefault();
      choose(chosen + steps[event.key]);
    });
    select.addEventListener("change", draw);
    draw();
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const place of document.querySelectorAll("[data-play]"))
      ({ masks, front })[place.dataset.play](place, JSON.parse(place.querySelector("script").textContent));
  });
})();
