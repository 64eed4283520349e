"use strict";
(() => {
  // Everything that comes from files reaches the page as text nodes and attribute values, never as markup.
  const data = JSON.parse(document.getElementById("data").textContent);
  const COLOURS = data.colours;
  const DASHES = ["", "6 4", "1.5 4", "9 3 2 3"];
  let averaged = false; // curves are means over the seeds
  const runs = data.runs.map((run, index) => ({ ...run, index }));
  const hidden = new Set();
  const listeners = [];
  const onChange = (callback) => { listeners.push(callback); callback(); };
  const shown = () => runs.filter((run) => !hidden.has(run.index));
  const groups = [...new Set(runs.map((run) => run.group))];
  const colourOf = (run) => COLOURS[(averaged ? groups.indexOf(run.group) : run.index) % COLOURS.length];

  // The curves of the runs that are shown: one for each run, or one for those that differ in the seed alone.
  function curves(of, suffix = "", dash = 0) {
    const together = new Map();
    for (const run of shown().filter((each) => of(each).length)) {
      const by = averaged ? run.group : run.index;
      together.set(by, [...(together.get(by) || []), run]);
    }
    return [...together.values()].map((group) => ({
      label: (group.length > 1 ? `${runs[group[0].group].name}, mean of ${group.length} seeds` : group[0].name) + suffix,
      colour: colourOf(group[0]), dash, points: group.length > 1 ? means(group.map(of)) : of(group[0]),
    }));
  }

  // [x, mean, standard deviation] wherever all curves have a value.
  function means(lines) {
    const values = lines.map((points) => new Map(points.filter((point) => isNumber(point[1]))));
    return [...values[0].keys()].filter((x) => values.every((each) => each.has(x))).map((x) => {
      const found = values.map((each) => each.get(x));
      const mean = found.reduce((sum, value) => sum + value, 0) / found.length;
      return [x, mean, Math.sqrt(found.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (found.length - 1))];
    });
  }

  // --- small pieces ------------------------------------------------------------------------------------------------
  const SVG = "http://www.w3.org/2000/svg";
  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "colour") node.style.setProperty("--c", value);
      else node.setAttribute(name, value);
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return node;
  }
  const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
  const key = (colour, text) => el("span", { class: "key" }, el("i", { colour }), text);
  function runKey(run) {
    const node = key(null, run.name);
    onChange(() => node.firstChild.style.setProperty("--c", colourOf(run)));
    return node;
  }
  const words = (name) => name.replaceAll("_", " ").replace("knn", "k-NN").replace("top1", "top-1").replace("top5", "top-5");
  const isShare = (name) => /accuracy$|top[15]$|floor_fraction$/.test(name);
  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

  function number(value, name = "") {
    if (value === null || value === undefined) return "\u2013";
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (typeof value === "object") return JSON.stringify(value);
    if (!isNumber(value)) return String(value);
    if (isShare(name)) return (100 * value).toFixed(2) + "\u202f%";
    if (Number.isInteger(value)) return Math.abs(value) >= 10000 ? value.toLocaleString("en") : String(value);
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
    return String(Number(value.toPrecision(4)));
  }

  const tip = document.getElementById("tip");
  function showTip(event, ...children) {
    tip.replaceChildren(...children);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = event.clientX + 16 + box.width > innerWidth ? event.clientX - box.width - 12 : event.clientX + 16;
    const top = Math.min(event.clientY + 14, innerHeight - box.height - 8);
    tip.style.transform = `translate(${Math.max(6, left)}px, ${Math.max(6, top)}px)`;
  }
  const hideTip = () => { tip.hidden = true; };
  addEventListener("scroll", hideTip, { passive: true });

  function section(id, title, note, ...controls) {
    const body = el("div", {});
    const head = el("div", { class: "section-head" }, el("h2", {}, title), el("div", { class: "controls" }, ...controls), note ? el("p", {}, note) : null);
    document.getElementById("main").append(el("section", { id }, head, body));
    return body;
  }

  function segmented(label, options, start, onPick) {
    const buttons = options.map(([value, text]) => el("button", {
      type: "button", "aria-pressed": String(value === start),
      onclick: () => { buttons.forEach((each, i) => each.setAttribute("aria-pressed", String(options[i][0] === value))); onPick(value); },
    }, text));
    return el("div", { class: "seg", role: "group", "aria-label": label }, buttons);
  }

  // The shapes of matplotlib's markers in `figures.py`, in their order, around the origin.
  const MARKERS = [
    null, // a circle
    [[0, -1.2], [1.1, 0.8], [-1.1, 0.8]],
    [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]],
    [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
    [[-1.1, -0.8], [1.1, -0.8], [0, 1.2]],
    [[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]],
    [[-1.2, -0.6], [-0.6, -1.2], [0, -0.6], [0.6, -1.2], [1.2, -0.6], [0.6, 0], [1.2, 0.6], [0.6, 1.2], [0, 0.6], [-0.6, 1.2], [-1.2, 0.6], [-0.6, 0]],
  ];
  const labelStyle = (number) => ({ colour: COLOURS[number % COLOURS.length], marker: MARKERS[Math.floor(number / COLOURS.length) % MARKERS.length] });
  const markerIcon = ({ colour, marker }) => svg("svg", { class: "marker", viewBox: "-1.5 -1.5 3 3", "aria-hidden": "true" },
    marker === null ? svg("circle", { r: 1.1, fill: colour }) : svg("polygon", { points: marker.join(" "), fill: colour }));

  // --- tables ------------------------------------------------------------------------------------------------------
  // columns: [{name, text?, show?}]; rows: [{values: {name: value}, run?}]
  function table(columns, rows, id) {
    const body = el("tbody");
    const lines = rows.map((row) => ({
      row,
      node: el("tr", {}, columns.map((column) => {
        const value = row.values[column.name];
        const shownAs = column.show ? column.show(value, row) : number(value, column.name);
        return el("td", { class: column.text ? "text" : null, "data-name": column.name, "data-value": isNumber(value) ? String(value) : null }, shownAs);
      })),
    }));
    const heads = columns.map((column) => {
      const head = el("th", { scope: "col", class: column.text ? "text" : null, title: column.title, "aria-sort": "none" },
        el("button", { type: "button", onclick: () => sort(column, head) }, column.label || words(column.name)));
      return head;
    });
    function sort(column, head) {
      const rising = head.getAttribute("aria-sort") === "none" ? Boolean(column.text) : head.getAttribute("aria-sort") === "descending";
      heads.forEach((each) => each.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const missing = (value) => value === null || value === undefined;
      lines.sort((a, b) => {
        const [x, y] = [a.row.values[column.name], b.row.values[column.name]];
        if (missing(x) || missing(y)) return missing(x) - missing(y); // missing values come last in both directions
        const order = isNumber(x) && isNumber(y) ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
        return rising ? order : -order;
      });
      body.append(...lines.map((line) => line.node));
    }
    body.append(...lines.map((line) => line.node));
    onChange(() => lines.forEach((line) => line.node.classList.toggle("off", line.row.run !== undefined && hidden.has(line.row.run))));
    return el("div", { class: "tablewrap" }, el("table", { id }, el("thead", {}, el("tr", {}, heads)), body));
  }
  const runColumn = { name: "run", text: true, show: (_, row) => runKey(runs[row.run]) };

  // --- charts ------------------------------------------------------------------------------------------------------
  function ticks(low, high, count) {
    const rough = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough) || rough;
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
    return found;
  }

  // series(): [{label, run, dash, points: [[x, y, deviation?]], area?}]
  function chart({ title, note, name = "", xLabel = "epoch", yLabel = "", series, dashKeys = [], marks = () => [], whole = true, height = 210 }) {
    const holder = el("div", { class: "chart" });
    const keys = dashKeys.length > 1 ? el("div", { class: "keys" }, dashKeys.map((text, i) => el("span", { class: "key" },
      svg("svg", { "aria-hidden": "true" }, svg("line", { x1: 0, x2: 22, y1: 4, y2: 4, stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": DASHES[i] || null })), text))) : null;
    const card = el("figure", { class: "card", "data-chart": name }, el("h3", {}, title), note ? el("p", { class: "note" }, note) : null, keys, holder);
    function draw() {
      const width = holder.clientWidth;
      if (!width) return;
      const found = series().map((each) => ({ ...each, points: each.points.filter((point) => isNumber(point[1])) })).filter((each) => each.points.length);
      const all = found.flatMap((each) => each.points);
      const margin = { left: 48, right: 10, top: yLabel ? 22 : 10, bottom: 34 };
      const inner = { width: width - margin.left - margin.right, height: height - margin.top - margin.bottom };
      const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": title });
      holder.replaceChildren(picture);
      if (!all.length) {
        picture.append(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "nothing to draw"));
        return;
      }
      const xs = all.map((point) => point[0]);
      const ys = all.flatMap((point) => [point[1] - (point[2] || 0), point[1] + (point[2] || 0)]);
      let [x0, x1] = [Math.min(...xs), Math.max(...xs)];
      let [y0, y1] = [Math.min(...ys), Math.max(...ys)];
      if (x0 === x1) { x0 -= 0.5; x1 += 0.5; }
      const pad = (y1 - y0) * 0.07 || Math.abs(y1) * 0.1 || 1;
      y0 = y0 >= 0 && y0 - pad < 0 ? 0 : y0 - pad;
      y1 += pad;
      const x = (value) => margin.left + ((value - x0) / (x1 - x0)) * inner.width;
      const y = (value) => margin.top + (1 - (value - y0) / (y1 - y0)) * inner.height;
      for (const value of ticks(y0, y1, 4)) {
        picture.append(svg("line", { class: "gridline", x1: margin.left, x2: width - margin.right, y1: y(value), y2: y(value) }),
          svg("text", { x: margin.left - 8, y: y(value) + 4, "text-anchor": "end" }, isShare(name) ? `${Number((100 * value).toPrecision(4))}%` : number(value)));
      }
      const across = ticks(x0, x1, Math.min(8, inner.width / 55)).filter((value) => !whole || Number.isInteger(value));
      for (const value of across) picture.append(svg("text", { x: x(value), y: height - 16, "text-anchor": "middle" }, number(value)));
      picture.append(svg("line", { class: "axis", x1: margin.left, x2: width - margin.right, y1: margin.top + inner.height, y2: margin.top + inner.height }),
        svg("text", { x: width - margin.right, y: height - 2, "text-anchor": "end" }, xLabel));
      if (yLabel) picture.append(svg("text", { x: 0, y: 11 }, yLabel));
      for (const mark of marks()) picture.append(svg("line", { x1: x(mark.x), x2: x(mark.x), y1: margin.top, y2: margin.top + inner.height, stroke: mark.colour, "stroke-dasharray": "2 3", "stroke-width": 1.5 }));
      for (const each of found) {
        const line = each.points.map((point) => `${x(point[0]).toFixed(2)},${y(point[1]).toFixed(2)}`).join(" L");
        if (each.area) picture.append(svg("path", { d: `M${x(each.points[0][0])},${y(Math.max(y0, 0))} L${line} L${x(each.points.at(-1)[0])},${y(Math.max(y0, 0))} Z`, fill: each.colour, opacity: 0.16 }));
        if (each.points[0].length > 2) picture.append(svg("path", { class: "band", d: band(each.points, x, y), fill: each.colour, opacity: 0.2 }));
        picture.append(svg("path", { d: "M" + line, fill: "none", stroke: each.colour, "stroke-width": each.area ? 1.4 : 2, "stroke-dasharray": DASHES[each.dash || 0] || null, "stroke-linejoin": "round", "stroke-linecap": "round" }));
        if (each.points.length < 16) for (const point of each.points) picture.append(svg("circle", { cx: x(point[0]), cy: y(point[1]), r: 2.6, fill: each.colour }));
      }
      const cross = svg("g", {});
      picture.append(cross, svg("rect", {
        x: margin.left, y: 0, width: inner.width, height: height - 20, fill: "transparent",
        onpointermove: (event) => {
          const at = x0 + ((event.clientX - picture.getBoundingClientRect().left - margin.left) / inner.width) * (x1 - x0);
          const nearest = xs.reduce((best, value) => (Math.abs(value - at) < Math.abs(best - at) ? value : best));
          const hits = found.map((each) => ({ each, point: each.points.find((point) => point[0] === nearest) })).filter((hit) => hit.point);
          cross.replaceChildren(svg("line", { class: "cross", x1: x(nearest), x2: x(nearest), y1: margin.top, y2: margin.top + inner.height }),
            ...hits.map((hit) => svg("circle", { cx: x(nearest), cy: y(hit.point[1]), r: 4, fill: hit.each.colour, stroke: "var(--card)", "stroke-width": 1.5 })));
          showTip(event, el("b", {}, `${xLabel} ${number(nearest)}`), ...hits.map((hit) => el("div", { class: "key" }, key(hit.each.colour, hit.each.label), el("b", {}, number(hit.point[1], name) + (hit.point.length > 2 ? ` \u00b1 ${number(hit.point[2], name)}` : "")))));
        },
        onpointerleave: () => { cross.replaceChildren(); hideTip(); },
      }));
    }
    new ResizeObserver(draw).observe(holder);
    card.redraw = draw;
    onChange(draw);
    return card;
  }

  // One standard deviation on either side of a mean.
  function band(points, x, y) {
    const side = (sign) => points.map((point) => `${x(point[0]).toFixed(2)},${y(point[1] + sign * point[2]).toFixed(2)}`);
    return `M${[...side(1), ...side(-1).reverse()].join(" L")} Z`;
  }

  // --- the runs ----------------------------------------------------------------------------------------------------
  const chips = document.getElementById("runs");
  for (const run of runs) {
    const chip = el("button", { class: "chip", type: "button", "aria-pressed": "true", title: run.folder, onclick: () => {
      if (hidden.has(run.index)) hidden.delete(run.index); else hidden.add(run.index);
      chip.setAttribute("aria-pressed", String(!hidden.has(run.index)));
      listeners.forEach((listener) => listener());
    } }, el("i", {}), run.name);
    onChange(() => chip.firstChild.style.setProperty("--c", colourOf(run)));
    chips.append(chip);
  }
  if (new Set(runs.map((run) => run.group)).size < runs.length) {
    averaged = true;
    chips.append(segmented("Curves", [[true, "mean \u00b1 deviation over seeds"], [false, "each run"]], averaged, (value) => {
      averaged = value;
      listeners.forEach((listener) => listener());
    }));
    listeners.forEach((listener) => listener());
  }
  document.getElementById("sub").textContent = data.subtitle;

  const theme = document.getElementById("theme");
  const themes = ["auto", "light", "dark"];
  theme.addEventListener("click", () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme || "auto") + 1) % 3];
    if (next === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = next;
    theme.textContent = `Theme: ${next}`;
    listeners.forEach((listener) => listener());
  });

  // Overview
  {
    const present = (name) => runs.some((run) => run.overview[name] !== null && run.overview[name] !== undefined);
    const shared = (column) => column.text && runs.length > 1 && new Set(runs.map((run) => run.overview[column.name])).size === 1; // shown in the subtitle instead
    const columns = data.overview_columns.filter((column) => present(column.name) && !shared(column));
    const rows = runs.map((run) => ({ run: run.index, values: { run: run.name, ...run.overview } }));
    section("overview", "Overview", "Each figure is the last that the run has; click a column to sort by it.").append(
      el("div", { class: "card" }, table([runColumn, ...columns], rows, "overview-table")));
  }

  // Metrics
  {
    const names = [...new Set(runs.flatMap((run) => run.metrics.flatMap((row) => Object.keys(row))))].filter((name) => name !== "epoch" && name !== "step");
    if (names.length) {
      const order = (name) => { const at = data.metric_order.indexOf(name); return at < 0 ? 99 : at; };
      const grid = el("div", { class: "grid" });
      const constant = names.filter((name) => { const values = runs.flatMap((run) => run.metrics.filter((row) => name in row).map((row) => row[name])); return new Set(values).size === 1 && values.length > 1; });
      for (const name of names.filter((each) => !constant.includes(each)).sort((a, b) => order(a) - order(b))) {
        grid.append(chart({
          title: data.metric_titles[name] || words(name), name, yLabel: data.metric_units[name],
          series: () => curves((run) => run.metrics.filter((row) => name in row).map((row) => [row.epoch, row[name]])),
        }));
      }
      const value = (name) => runs.flatMap((run) => run.metrics).find((row) => name in row)[name];
      section("training", "Training", "What each run logged, over the epochs.").append(grid,
        constant.length ? el("p", { class: "note", style: "margin-top:12px" }, "Always the same: " + constant.map((name) => `${data.metric_titles[name] || words(name)} ${number(value(name), name)}`).join("; ") + ".") : "");
    }
  }

  // Analysis
  const analysed = runs.filter((run) => run.analysis);
  if (analysed.length) {
    const spaces = [...new Set(analysed.flatMap((run) => run.analysis.records.map((record) => record.space)))];
    const groups = analysed[0].analysis.groups;
    let space = spaces[0];
    const cards = [];
    const pick = spaces.length > 1 ? segmented("Space", spaces.map((each) => [each, each]), space, (value) => { space = value; cards.forEach((card) => card.redraw()); }) : null;
    const recordsOf = (run, column) => (run.analysis ? run.analysis.records : []).filter((record) => record.space === space).map((record) => [record.epoch ?? 0, record[column]]);
    const seriesOf = (columns) => () => columns.flatMap(([column, label], dash) => curves((run) => recordsOf(run, column), columns.length > 1 ? `, ${label}` : "", dash));
    const specs = [
      ["Adaptive threshold", "Mean over the images of the quantile of their cosines (paper, Figure 8).", "cosine", [["threshold", ""]]],
      ["Images above the threshold", "Mean number, and how many of them share the image\u2019s class or superclass (Figure 9).", "mean number of images", [["above", "all"], ["above_class", "class"], ["above_superclass", "superclass"]]],
      ["k-NN within the set", `Leave-one-out accuracy, ${data.knn} (Figure 11).`, "accuracy", [["knn_accuracy", "class"], ["knn_superclass_accuracy", "superclass"]]],
      ["Mean cosine with negatives", "Of the same class, of the same superclass, others (Figure 12).", "cosine", groups.map((group) => [`${group}_similarity`, group])],
      ["Superclass over other negatives", "Ratio of the mean cosines (Figure 13); only where the others\u2019 is above 0.", "ratio", [["ratio", ""]]],
      ["Superclass less other negatives", "Difference of the mean cosines.", "cosine", [["gap", ""]]],
      ["Effective rank", "RankMe: the dimensions in use.", "dimensions", [["effective_rank", ""]]],
      ["Local against global rank", "Effective rank within a group, and of as many images of all: a gap is local collapse.", "dimensions", [["local_rank", "within a group"], ["overall_rank", "of all"]]],
    ];
    const grid = el("div", { class: "grid" });
    for (const [title, note, yLabel, columns] of specs) {
      const there = columns.filter(([column]) => analysed.some((run) => run.analysis.records.some((record) => record[column] !== null)));
      if (!there.length) continue;
      const card = chart({ title, note, yLabel, name: there[0][0], series: seriesOf(there), dashKeys: there.map(([, label]) => label) });
      cards.push(card);
      grid.append(card);
    }
    const body = section("analysis", "Feature space", `Of ${data.analysis_note}, by the checkpoints that were kept.`, pick);
    body.append(grid);
    const columns = [runColumn, { name: "space", text: true }, { name: "epoch" }, ...Object.entries(analysed[0].analysis.columns).map(([name, title]) => ({ name, title }))];
    const rows = analysed.flatMap((run) => run.analysis.records.map((record) => ({ run: run.index, values: { run: run.name, ...record } })));
    body.append(el("details", {}, el("summary", {}, `All figures of all epochs (${rows.length} lines)`), el("div", { class: "card" }, table(columns, rows, "analysis-table"))));
    const ranks = analysed.flatMap((run) => {
      const last = run.analysis.ranks.at(-1);
      return run.analysis.ranks.filter((rank) => rank.epoch === last.epoch).map((rank) => ({ run: run.index, values: { run: run.name, ...rank, group: rank.name } }));
    });
    if (ranks.length) {
      const rankColumns = [runColumn, { name: "space", text: true }, { name: "group", text: true }, { name: "rows", label: "images" }, { name: "local", label: "rank within" }, { name: "overall", label: "rank of as many" }, { name: "ratio" }];
      body.append(el("details", {}, el("summary", {}, `Ranks within each group, last epoch (${ranks.length} lines)`), el("div", { class: "card" }, table(rankColumns, ranks, "rank-table"))));
    }

    // Histograms
    const moments = Math.max(...analysed.map((run) => new Set(run.analysis.histograms.map((each) => each.epoch)).size));
    let moment = moments - 1;
    const histogramCards = [];
    const label = el("span", {});
    const slider = el("input", { type: "range", min: 0, max: moments - 1, value: moment, "aria-label": "Checkpoint", oninput: (event) => { moment = Number(event.target.value); histogramCards.forEach((card) => card.redraw()); name(); } });
    function name() {
      const epochs = analysed[0].analysis.records.filter((record) => record.space === spaces[0]).map((record) => record.epoch);
      label.textContent = epochs[moment] === null || epochs[moment] === undefined ? "" : `epoch ${epochs[moment]}`;
    }
    name();
    const groupColours = groups.map((group) => data.group_colours[group]);
    const histograms = el("div", { class: "grid wide" });
    for (const run of analysed) {
      for (const each of spaces) {
        const of = () => { const found = run.analysis.histograms.filter((histogram) => histogram.space === each); return found[Math.min(moment, found.length - 1)]; };
        if (!of()) continue;
        const card = chart({
          title: `${run.name}, ${each}`, name: "histogram", xLabel: "cosine", yLabel: "density of the group\u2019s pairs", whole: false, height: 200,
          marks: () => [{ x: of().threshold, colour: "var(--faint)" }],
          series: () => groups.map((group, i) => {
            const counts = of()[group];
            const total = counts.reduce((sum, count) => sum + count, 0);
            const used = counts.map((count, bin) => [-1 + (2 * bin + 1) / counts.length, (count / total) * (counts.length / 2)]);
            const filled = used.findIndex((point) => point[1] > 0);
            return { label: `${group} negatives`, colour: groupColours[i], area: true, points: total ? used.slice(Math.max(0, filled - 1), used.length - [...counts].reverse().findIndex((count) => count > 0) + 1) : [] };
          }),
        });
        card.append(el("div", { class: "keys" }, groups.map((group, i) => key(groupColours[i], group)), el("span", {}, "\u2506 threshold")));
        histogramCards.push(card);
        histograms.append(card);
        onChange(() => { card.hidden = hidden.has(run.index); card.style.display = card.hidden ? "none" : ""; });
      }
    }
    section("histograms", "Cosines of all pairs", "Density of the cosines by what two images share: their class, their superclass but not their class, or neither.",
      moments > 1 ? el("span", { class: "slider" }, slider, label) : null).append(histograms);

    // Planes
    const sets = [...new Set(analysed.flatMap((run) => run.analysis.planes.map((plane) => plane.title)))];
    if (sets.length) drawPlanes(sets);

    // Nearest images
    const pictured = analysed.filter((run) => run.analysis.nearest.length && run.analysis.nearest[0].anchor.picture);
    if (pictured.length) {
      const body2 = el("div", { class: "grid wide" });
      for (const run of pictured) {
        const item = (entry, anchor) => el("figure", { class: anchor === null ? "anchor" : (entry.superclass ?? entry.class) === (anchor.superclass ?? anchor.class) ? "same" : null },
          el("img", { src: entry.picture, alt: "", loading: "lazy" }), el("span", {}, String(entry.class ?? entry.row)), anchor === null ? null : el("div", {}, number(entry.cosine)));
        const card = el("div", { class: "card" }, el("h3", {}, run.name), el("div", { class: "nearest", style: "margin-top:10px" },
          run.analysis.nearest.map((line) => el("div", { class: "line" }, item(line.anchor, null), line.nearest.map((entry) => item(entry, line.anchor))))));
        body2.append(card);
        onChange(() => { card.style.display = hidden.has(run.index) ? "none" : ""; });
      }
      section("nearest", "Nearest images", "An anchor, and the images of a random batch of 128 that are most similar to it (Figure 15). A frame: the same superclass, or class where there are no superclasses.").append(body2);
    }
  }

  function drawPlanes(sets) {
    let set = sets[0];
    let by = null;
    let lit = null;
    const grid = el("div", { class: "grid wide" });
    const legend = el("div", { class: "legend", role: "group", "aria-label": "Groups: click to single one out" });
    const byHolder = el("span", {});
    const setPicker = sets.length > 1 ? segmented("Images", sets.map((each) => [each, each]), set, (value) => { set = value; by = null; lit = null; build(); }) : null;
    const body = section("planes", "Features in the plane", "Hover or tap for an image\u2019s labels, drag to move, use the buttons, a pinch or Ctrl + wheel to zoom. Distances between far clusters mean little.", setPicker, byHolder);
    body.append(legend, grid);
    let redraws = [];
    function build() {
      const panels = shown().filter((run) => run.analysis).flatMap((run) => run.analysis.planes.filter((plane) => plane.title === set).map((plane) => ({ run, plane })));
      redraws = [];
      grid.replaceChildren();
      if (!panels.length) { legend.replaceChildren(); byHolder.replaceChildren(); return; }
      const kinds = ["superclass", "class"].filter((kind) => panels[0].plane[kind]);
      by = kinds.includes(by) ? by : kinds.includes(panels[0].plane.by) ? panels[0].plane.by : kinds[0] || null;
      byHolder.replaceChildren(...(kinds.length > 1 ? [segmented("Colour by", kinds.map((kind) => [kind, `by ${kind}`]), by, (value) => { by = value; lit = null; paint(); })] : []));
      for (const panel of panels) grid.append(plane(panel, () => by, () => lit, redraws));
      paint();
      function paint() {
        const names = by ? panels[0].plane.all_names[by] : {};
        const styles = palette(Object.keys(names), by);
        legend.replaceChildren(...Object.entries(names).sort((a, b) => a[1].localeCompare(b[1], "en", { numeric: true })).map(([value, text]) => {
          const button = el("button", { type: "button", "aria-pressed": "false", onclick: () => {
            lit = lit === value ? null : value;
            [...legend.children].forEach((each) => each.setAttribute("aria-pressed", String(each === button && lit !== null)));
            redraws.forEach((redraw) => redraw());
          } }, markerIcon(styles[value]), text);
          return button;
        }));
        redraws.forEach((redraw) => redraw());
      }
    }
    onChange(build);
  }

  // Superclasses look alike in all pictures: by their numbers. Classes by their places, since there may be many.
  function palette(labels, kind) {
    return Object.fromEntries(labels.map((label, place) => [label, labelStyle(kind === "superclass" ? Number(label) : place)]));
  }

  function plane({ run, plane: points }, by, lit, redraws) {
    const canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": `${run.name}, ${points.caption}: ${points.x.length} images in the plane` });
    let view = { x: 0, y: 0, scale: 1 };
    const pointers = new Map();
    const side = () => canvas.clientWidth;
    const place = (i) => [((points.x[i] - view.x) * view.scale * 0.47 + 0.5) * side(), ((view.y - points.y[i]) * view.scale * 0.47 + 0.5) * side()];
    function draw() {
      const size = side();
      if (!size) return;
      const ratio = window.devicePixelRatio || 1;
      canvas.width = canvas.height = Math.round(size * ratio);
      const context = canvas.getContext("2d");
      context.scale(ratio, ratio);
      const labels = by() ? points[by()] : null;
      const styles = labels ? palette(Object.keys(points.all_names[by()]), by()) : {};
      const own = { colour: colourOf(run), marker: null };
      const radius = Math.min(5, (points.x.length > 1500 ? 1.9 : points.x.length > 400 ? 2.4 : 3.2) * Math.sqrt(view.scale));
      const order = points.x.map((_, i) => i);
      const dim = (i) => lit() !== null && labels && String(labels[i]) !== lit();
      order.sort((a, b) => dim(b) - dim(a)); // what is not dimmed is drawn last
      for (const i of order) {
        const [x, y] = place(i);
        if (x < -9 || y < -9 || x > size + 9 || y > size + 9) continue;
        context.globalAlpha = dim(i) ? 0.1 : 0.78;
        const { colour, marker } = labels ? styles[labels[i]] : own;
        context.fillStyle = colour;
        context.beginPath();
        if (marker === null) context.arc(x, y, radius, 0, 7);
        else marker.forEach(([u, v]) => context.lineTo(x + 1.1 * radius * u, y + 1.1 * radius * v));
        context.fill();
      }
      canvas.classList.toggle("zoomed", view.scale > 1);
    }
    function zoom(factor, clientX, clientY) {
      const box = canvas.getBoundingClientRect();
      const [u, v] = [((clientX ?? box.left + box.width / 2) - box.left) / box.width - 0.5, ((clientY ?? box.top + box.height / 2) - box.top) / box.height - 0.5];
      const scale = Math.min(60, Math.max(1, view.scale * factor));
      view.x += (u / 0.47) * (1 / view.scale - 1 / scale);
      view.y -= (v / 0.47) * (1 / view.scale - 1 / scale);
      view.scale = scale;
      if (scale === 1) view = { x: 0, y: 0, scale: 1 };
      draw();
    }
    function hover(event) {
      const box = canvas.getBoundingClientRect();
      let best = -1;
      let distance = 14 ** 2;
      for (let i = 0; i < points.x.length; i++) {
        const [x, y] = place(i);
        const found = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
        if (found < distance) [best, distance] = [i, found];
      }
      if (best < 0) { hideTip(); return; }
      const line = (kind) => (points[kind] ? el("div", { class: "key" }, kind, el("b", {}, points.all_names[kind][points[kind][best]] ?? String(points[kind][best]))) : null);
      showTip(event, ...[line("class"), line("superclass"), el("div", { class: "key" }, "image", el("b", {}, String(points.rows[best])))].filter(Boolean));
    }
    canvas.addEventListener("pointerdown", (event) => { pointers.set(event.pointerId, [event.clientX, event.clientY]); canvas.setPointerCapture(event.pointerId); hover(event); });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) { hover(event); return; }
      const now = [event.clientX, event.clientY];
      if (pointers.size === 1) {
        view.x -= (now[0] - before[0]) / side() / 0.47 / view.scale;
        view.y += (now[1] - before[1]) / side() / 0.47 / view.scale;
        if (Math.hypot(now[0] - before[0], now[1] - before[1]) > 1) hideTip();
        draw();
      } else {
        const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
        zoom(Math.hypot(now[0] - other[0], now[1] - other[1]) / Math.max(1, Math.hypot(before[0] - other[0], before[1] - other[1])), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      }
      pointers.set(event.pointerId, now);
    });
    const release = (event) => pointers.delete(event.pointerId);
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("pointerleave", () => hideTip());
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 300), event.clientX, event.clientY);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = 0.2 / view.scale;
      const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
      if (event.key === "+" || event.key === "=") zoom(1.5);
      else if (event.key === "-") zoom(1 / 1.5);
      else if (moves[event.key]) { view.x += moves[event.key][0]; view.y += moves[event.key][1]; draw(); }
      else return;
      event.preventDefault();
    });
    new ResizeObserver(draw).observe(canvas);
    redraws.push(draw);
    const button = (text, title, act) => el("button", { type: "button", title, "aria-label": title, onclick: act }, text);
    return el("div", { class: "card plane" },
      el("h3", {}, key(colourOf(run), `${run.name}, ${points.caption}`)), el("p", { class: "note" }, `${points.method.toUpperCase()} of the ${points.space}, ${points.x.length} images. To the right: ${points.method.toUpperCase()} 1; up: ${points.method.toUpperCase()} 2; no units.`),
      canvas, el("div", { class: "zoom" }, button("+", "Zoom in", () => zoom(1.6)), button("\u2212", "Zoom out", () => zoom(1 / 1.6)), button("\u2302", "Show all", () => { view = { x: 0, y: 0, scale: 1 }; draw(); })));
  }

  // Evaluations
  const evaluated = runs.flatMap((run) => run.evaluations.flatMap((each) => each.rows.map((row) => ({ run: run.index, values: { run: run.name, command: each.command, ...row }, each }))));
  if (evaluated.length) {
    const names = [...new Set(evaluated.flatMap((row) => Object.keys(row.values)))].filter((name) => !["run", "weights"].includes(name) && evaluated.some((row) => ["string", "number", "boolean"].includes(typeof row.values[name])));
    const isText = (name) => evaluated.some((row) => typeof row.values[name] === "string");
    const show = (name) => (value, row) => { // over several draws: the mean and the deviation
      const deviation = row.values.deviation?.[name];
      return isNumber(value) && isNumber(deviation) && isShare(name) ? `${(100 * value).toFixed(2)} \u00b1 ${number(deviation, name)}` : number(value, name);
    };
    const body = section("evaluation", "Evaluation", "Accuracies of the frozen or fine-tuned network, with the standard deviation where a share of the labels was drawn several times; what they were measured by is below.");
    body.append(el("div", { class: "card" }, table([runColumn, ...names.map((name) => ({ name, text: isText(name), show: show(name) }))], evaluated, "evaluation-table")),
      el("details", {}, el("summary", {}, "Protocols"), el("div", { class: "card" }, runs.flatMap((run) => run.evaluations.map((each) => el("p", { class: "note", style: "margin-bottom:8px" }, el("b", {}, `${run.name}, ${each.command}: `), each.protocol))))));
  }

  // Settings
  {
    const names = [...new Set(runs.flatMap((run) => Object.keys(run.settings)))];
    const text = (value) => number(value);
    const differs = (name) => new Set(runs.map((run) => text(run.settings[name]))).size > 1;
    const columns = [{ name: "setting", text: true }, ...runs.map((run) => ({ name: `run ${run.index}`, label: run.name, text: true, show: (value) => text(value) }))];
    const line = (name) => ({ values: { setting: name, ...Object.fromEntries(runs.map((run) => [`run ${run.index}`, run.settings[name]])) } });
    const body = section("settings", "Settings", runs.length > 1 ? "What differs between the runs." : "");
    const different = names.filter(differs);
    if (runs.length > 1) body.append(el("div", { class: "card settings" }, different.length ? table(columns, different.map(line), "settings-table") : el("p", { class: "note" }, "Nothing: the runs have the same settings.")));
    body.append(el("details", runs.length > 1 ? {} : { open: "" }, el("summary", {}, `All ${names.length} settings`), el("div", { class: "card settings" }, table(columns, names.map(line), "all-settings-table"))));
  }
  // Nothing can be opened on paper.
  const opened = [];
  addEventListener("beforeprint", () => {
    opened.push(...document.querySelectorAll("details:not([open])"));
    opened.forEach((each) => { each.open = true; });
  });
  addEventListener("afterprint", () => opened.splice(0).forEach((each) => { each.open = false; }));

  document.getElementById("footer").textContent = data.footer;
  document.documentElement.dataset.ready = "true";
})();
