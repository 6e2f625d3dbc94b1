// Draws the plots and runs the filters. What it shows comes from the data block of the page, and every text of it is
// escaped before plotly, which reads a subset of HTML in texts, sees it.
"use strict";
(() => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const RUN = 0, CATEGORY = 1, COMPLEXITY = 2, MODEL = 3, PHASE = 4, PREDICTED = 6, ACTUAL = 7, BUDGET = 8,
    SUCCESS = 9, TRUNCATED = 10;
  const WORST_SHOWN = 20, COLOURS = 8, MOST_STRATA = 40;
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star", "pentagon", "hourglass"];
  const CONFIG = { displayModeBar: false, responsive: true };
  const byId = (id) => document.getElementById(id);
  const filters = { run: byId("filter-run"), category: byId("filter-category"), model: byId("filter-model") };
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const grouped = (count) => count.toLocaleString("en").replaceAll(",", "\u202f");
  const short = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);
  let printing = false;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const narrow = () => !printing && window.innerWidth < 640;

  function layout(changes) {
    const line = { gridcolor: colour("line"), linecolor: colour("muted"), zerolinecolor: colour("line"), automargin: true };
    const { xaxis, yaxis, ...others } = changes;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("ink"), family: "system-ui, sans-serif", size: narrow() ? 11 : 13 },
      margin: { l: 56, r: 12, t: 12, b: 90 }, hovermode: "closest", dragmode: false,
      hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("muted"), font: { color: colour("ink") }, align: "left" },
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0 },
      width: printing ? 680 : undefined, autosize: !printing,
      xaxis: { ...line, ...xaxis }, yaxis: { ...line, ...yaxis }, ...others,
    };
  }

  // The container gets the plot's height: plotly redraws for another width in one that would collapse without it.
  function put(id, traces, changes) {
    document.getElementById(id).style.height = `${changes.height}px`;
    Plotly.react(id, traces, layout(changes), CONFIG);
  }

  const chosen = () => Object.fromEntries(Object.entries(filters).map(([name, select]) => [name, select.value]));

  function matching() {
    const choice = chosen(), same = (value, wanted) => wanted === "" || value === Number(wanted);
    return report.plotted.filter((call) => same(call[RUN], choice.run) && same(call[CATEGORY], choice.category)
      && same(call[MODEL], choice.model));
  }

  function hoverText(call) {
    const names = report.names, least = call[TRUNCATED] ? "≥ " : "";
    return [
      `${short(names.runs[call[RUN]], 60)}/${short(call[PHASE], 80)}`,
      `${names.categories[call[CATEGORY]]}/${names.complexities[call[COMPLEXITY]]}, ${names.models[call[MODEL]]}`,
      `predicted ${grouped(call[PREDICTED])}, actual ${least}${grouped(call[ACTUAL])}, budget ${grouped(call[BUDGET])}`,
      call[TRUNCATED] ? "truncated" : call[SUCCESS] ? "ok" : "failed",
    ].map(plain).join("<br>");
  }

  function pointsOf(calls, category, truncated) {
    const members = calls.filter((call) => call[CATEGORY] === category && call[TRUNCATED] === truncated);
    const symbol = SYMBOLS[category % SYMBOLS.length] + (truncated ? "-open" : "");
    return {
      type: "scatter", mode: "markers", legendgroup: String(category), showlegend: !truncated,
      name: plain(short(report.names.categories[category], 24)),
      x: members.map((call) => call[PREDICTED]), y: members.map((call) => call[ACTUAL]),
      text: members.map(hoverText), hoverinfo: "text",
      marker: {
        symbol, size: truncated ? 11 : 6, opacity: truncated ? 1 : 0.65, color: colour(`c${category % COLOURS}`),
        line: { width: truncated ? 2 : 0, color: colour(`c${category % COLOURS}`) },
      },
    };
  }

  function ratioLine(calls, factor, name, dash) {
    const values = calls.flatMap((call) => [call[PREDICTED], call[ACTUAL]]);
    const ends = values.length ? [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))] : [];
    return {
      type: "scatter", mode: "lines", name, hoverinfo: "skip", x: ends, y: ends.map((value) => value * factor),
      line: { color: colour("muted"), width: 1.5, dash },
    };
  }

  // What an open mark means stands in the legend once, not once for each category.
  const truncatedKey = () => ({
    type: "scatter", mode: "markers", name: "truncated", x: [null], y: [null], hoverinfo: "skip",
    marker: { symbol: "circle-open", size: 11, color: colour("ink"), line: { width: 2 } },
  });

  function drawCalls() {
    const calls = matching();
    const categories = report.names.categories.map((_, category) => category);
    const points = categories.flatMap((category) => [pointsOf(calls, category, false), pointsOf(calls, category, true)])
      .filter((trace) => trace.x.length);
    const factor = report.underestimation_factor;
    const lines = [ratioLine(calls, 1, "actual = predicted", "solid"),
      ratioLine(calls, factor, `actual = ${factor} × predicted`, "dot")];
    put("plot-calls", [...lines, truncatedKey(), ...points], {
      height: narrow() ? 540 : 600, margin: { l: 56, r: 12, t: 12, b: narrow() ? 190 : 110 },
      xaxis: { type: "log", title: { text: "predicted output tokens" }, dtick: 1 },
      yaxis: { type: "log", title: { text: "actual output tokens" }, dtick: 1 },
    });
  }

  function figureNamed(name) { return report.figures.find((figure) => figure.name === name); }

  function limitLine(figure, vertical) {
    const at = vertical ? { x0: figure.limit, x1: figure.limit, y0: 0, y1: 1, yref: "paper" }
      : { y0: figure.limit, y1: figure.limit, x0: 0, x1: 1, xref: "paper" };
    return { type: "line", ...at, line: { color: colour("fail"), width: 1.5, dash: "dash" } };
  }

  const sign = (figure) => (figure.unit === "percent" ? " %" : " ×");
  const end = (value, figure) => (value === null ? "?" : `${Number(value.toPrecision(3))}${sign(figure)}`);

  function drawStrata() {
    const choice = chosen();
    const figure = figureNamed(byId("strata-figure").value);
    const wanted = choice.category === "" ? null : report.names.categories[Number(choice.category)];
    const strata = report.strata.filter((stratum) => wanted === null || stratum.category === wanted)
      .slice(0, MOST_STRATA).reverse();
    const known = strata.filter((stratum) => stratum.estimates[figure.name].point !== null);
    const estimates = known.map((stratum) => stratum.estimates[figure.name]);
    // Each is cut by itself: a long category must not take the complexity away.
    const label = (stratum) => `${short(stratum.category, narrow() ? 12 : 28)}/${short(stratum.complexity, 10)}`;
    const names = known.map((stratum) => `${plain(label(stratum))} (${stratum.n})`);
    put("plot-strata", [{
      type: "scatter", mode: "markers", y: names.map((_, place) => place), x: estimates.map((estimate) => estimate.point),
      hoverinfo: "text",
      text: known.map((stratum, place) => `${plain(label(stratum))}: ${end(estimates[place].point, figure)} `
        + `[${end(estimates[place].lower, figure)}, ${end(estimates[place].upper, figure)}], ${stratum.n} samples`),
      marker: { color: colour("accent"), size: 9, symbol: estimates.map((e) => (e.upper === null ? "circle-open" : "circle")) },
      error_x: {
        type: "data", symmetric: false, color: colour("accent"), thickness: 2, width: 5,
        array: estimates.map((e) => (e.upper === null ? 0 : e.upper - e.point)),
        arrayminus: estimates.map((e) => (e.lower === null ? 0 : e.point - e.lower)),
      },
    }], {
      height: 110 + 30 * Math.max(known.length, 2), margin: { l: 56, r: 12, t: 12, b: 60 }, shapes: [limitLine(figure, true)], showlegend: false,
      xaxis: { title: { text: figure.title + sign(figure) }, rangemode: "tozero" },
      yaxis: { tickvals: names.map((_, place) => place), ticktext: names, range: [-0.7, names.length - 0.3] },
    });
  }

  function drawBudget() {
    const calls = matching(), width = 5, last = 24, bins = Array.from({ length: last + 1 }, (_, bin) => bin);
    const counts = (truncated) => {
      const found = bins.map(() => 0);
      for (const call of calls.filter((each) => each[TRUNCATED] === truncated && each[BUDGET] > 0)) {
        found[Math.min(last, Math.floor((call[ACTUAL] / call[BUDGET]) * 100 / width))] += 1;
      }
      return found;
    };
    const label = (bin) => (bin === last ? `${bin * width} % and more` : `${bin * width} to ${(bin + 1) * width} %`);
    const bars = (truncated, name, tone) => ({
      type: "bar", name, x: bins.map((bin) => (bin + 0.5) * width), y: counts(truncated), width,
      hovertext: bins.map((bin, place) => `${label(bin)}: ${counts(truncated)[place]} calls`), hoverinfo: "text",
      marker: { color: colour(tone), line: { width: 1, color: colour("ground") } },
    });
    put("plot-budget", [bars(false, "complete", "c0"), bars(true, "truncated", "c1")], {
      barmode: "stack", height: 380,
      shapes: [{ type: "line", x0: 100, x1: 100, y0: 0, y1: 1, yref: "paper",
        line: { color: colour("fail"), width: 1.5, dash: "dash" } }],
      xaxis: { title: { text: "part of the budget that was used, %" }, range: [0, (last + 1) * width] },
      yaxis: { title: { text: "calls" } },
    });
  }

  function drawTime() {
    const figure = figureNamed(byId("time-figure").value);
    const known = report.periods.filter((period) => period.estimates[figure.name].point !== null);
    const of = (name) => known.map((period) => period.estimates[figure.name][name]);
    const dates = known.map((period) => period.begin);
    const shade = { type: "scatter", mode: "lines", x: dates, hoverinfo: "skip", line: { width: 0 }, showlegend: false };
    const tone = colour("c0");
    const hover = known.map((period) => {
      const e = period.estimates[figure.name];
      return `${period.begin}: ${end(e.point, figure)} [${end(e.lower, figure)}, ${end(e.upper, figure)}], ${period.n} samples`;
    });
    const points = of("point");
    put("plot-time", [
      { ...shade, y: of("upper").map((value, place) => value ?? points[place]) },
      { ...shade, y: of("lower").map((value, place) => value ?? points[place]), fill: "tonexty", fillcolor: `${tone}33`,
        showlegend: true, name: "interval" },
      { type: "scatter", mode: "lines+markers", x: dates, y: points, text: hover, hoverinfo: "text", name: figure.title,
        line: { color: tone, width: 2 }, marker: { size: 7 } },
    ], {
      height: 380, shapes: [limitLine(figure, false)],
      xaxis: { type: "date", title: { text: "period beginning (UTC)" }, ...(dates.length < 8 ? { tickvals: dates, ticktext: dates } : {}) },
      yaxis: { title: { text: figure.title + sign(figure) }, rangemode: "tozero" },
    });
  }

  function filterWorst() {
    const choice = chosen(), same = (row, name) => choice[name] === "" || row.dataset[name] === choice[name];
    let shown = 0;
    for (const row of byId("worst").tBodies[0].rows) {
      row.hidden = !(same(row, "run") && same(row, "category") && same(row, "model")) || shown >= WORST_SHOWN;
      shown += row.hidden ? 0 : 1;
    }
    return shown;
  }

  // A plot is drawn when it comes near the window: together they would take most of the time that the page has to open.
  const PLOTS = { "plot-calls": drawCalls, "plot-strata": drawStrata, "plot-budget": drawBudget, "plot-time": drawTime };
  const near = new Set(), outdated = new Set();

  function drawOutdated() {
    for (const name of outdated) {
      if (near.has(name) || printing) {
        outdated.delete(name);
        PLOTS[name]();
        byId(name).removeAttribute("aria-busy");
      }
    }
  }

  function draw() {
    const shown = matching(), worst = filterWorst();
    for (const name of Object.keys(PLOTS)) {
      outdated.add(name);
      byId(name).setAttribute("aria-busy", "true");
    }
    drawOutdated();
    const partly = report.plotted.length < report.total ? `, an even sample of all ${grouped(report.total)}` : "";
    byId("shown").textContent =
      `${grouped(shown.length)} of ${grouped(report.plotted.length)} plotted calls match${partly}; ${worst} of the worst are listed.`;
  }

  function print(starts) {
    printing = starts;
    document.documentElement.toggleAttribute("data-print", starts);
    for (const details of document.querySelectorAll("details")) { details.open = starts; }
    draw();
  }

  for (const select of document.querySelectorAll("select")) { select.addEventListener("change", draw); }
  byId("reset").addEventListener("click", () => {
    for (const select of Object.values(filters)) { select.value = ""; }
    draw();
  });
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) { near.add(target.id); } else { near.delete(target.id); }
    }
    drawOutdated();
  }, { rootMargin: "300px" });
  Object.keys(PLOTS).forEach((name) => observer.observe(byId(name)));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  window.addEventListener("beforeprint", () => print(true));
  window.addEventListener("afterprint", () => print(false));
  byId("without-script").hidden = true;
  draw();
  document.documentElement.setAttribute("data-ready", "");
})();
