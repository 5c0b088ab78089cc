// The Explorer draws the contents of data.js in the page. Plain JavaScript; nothing is fetched.
(() => {
  "use strict";
  const { colors, collections } = window.promptTransferExplorer;
  const TYPES = { SA: "sentiment", NLI: "inference", EJ: "ethics", PI: "paraphrase" };
  const NO_TASK = "none"; // the type of rows that are no task: random, projected and reused prompts
  const MARKS = { // around 0, 0; a type has its own mark, so that color is not needed
    SA: "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
    NLI: "M-3.6,-3.6h7.2v7.2h-7.2z",
    EJ: "M0,-4.6l4.6,8h-9.2z",
    PI: "M0,-5l4.6,5l-4.6,5l-4.6,-5z",
  };
  const LINES = { // lines that distinguish the kinds of pairs and the seeds without color
    "same task": { stroke: "#2c1a5e", dash: "", mark: MARKS.SA },
    "same type": { stroke: "#5a4694", dash: "7 4", mark: MARKS.NLI },
    "different type": { stroke: "#79718f", dash: "2 3", mark: MARKS.EJ },
    "different task": { stroke: "#79718f", dash: "2 3", mark: MARKS.EJ },
  };
  const START_COLORS = ["#8a2be2", "#6b7680", "#b3382c", "#00707a"]; // for runs that start from other tasks' prompts, by how these were chosen
  const SEED_DASHES = ["", "6 3", "2 3", "9 3 2 3", "1 2"];
  const LEARNED = 0.02; // a target on which tuning gains less over the random prompt has nothing to recover
  const FEWEST = 5; // sources of a target, for a correlation over them

  const get = (id) => document.getElementById(id);
  const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;
  const signed = (value) => value.toFixed(2).replace("-", "−");
  const plain = (name) => name.replace(/^micro\//, "");
  const isPublished = (collection) => collection.group.startsWith("Published");
  const whose = () => `${shown.collection.name}${isPublished(shown.collection) ? ", published" : ": not RoBERTa"}`;

  // A figure and its controls, under a line that names the source of the numbers
  const showOf = (owner, id, ...parts) => get(id).replaceChildren(make("p", { class: "explorer-whose" }, owner), ...parts);
  const show = (id, ...parts) => showOf(whose(), id, ...parts);

  // ---------------------------------------------------------------- elements

  function make(tag, attributes = {}, ...children) {
    const drawn = /^(svg|g|path|line|text|title|polygon)$/.test(tag);
    const made = drawn ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, value);
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  const cells = (tag, values) => values.map((value) => make(tag, tag === "th" ? { scope: "col" } : {}, String(value)));

  // A name that may be broken after each of its parts
  const parts = (name) => name.split(/(?<=[/_])/).flatMap((part, i) => (i ? [make("wbr"), part] : [part]));

  // The same numbers as a table, for readers who cannot use the figure
  function numbers(columns, rows) {
    const body = rows.map((row) => make("tr", {}, ...cells("td", row)));
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...cells("th", columns))), make("tbody", {}, ...body));
    return make("details", {}, make("summary", {}, "The numbers"), make("div", { class: "explorer-wide" }, table));
  }

  // Tab reaches one of several elements; arrow keys, Home and End lead to the others.
  function rove(items, step) {
    items.forEach((item, place) => {
      item.setAttribute("tabindex", place ? "-1" : "0");
      item.addEventListener("focus", () => {
        items.forEach((other) => other.setAttribute("tabindex", other === item ? "0" : "-1"));
      });
      item.addEventListener("keydown", (event) => {
        const to = step(place, event.key);
        if (to === undefined) return;
        event.preventDefault();
        items[Math.max(0, Math.min(items.length - 1, to))].focus();
      });
    });
  }

  const inLine = (count) => (place, key) => ({
    ArrowRight: place + 1, ArrowDown: place + 1, ArrowLeft: place - 1, ArrowUp: place - 1, Home: 0, End: count - 1,
  })[key];

  const inGrid = (width, count) => (place, key) => ({
    ArrowRight: place % width < width - 1 ? place + 1 : place,
    ArrowLeft: place % width ? place - 1 : place,
    ArrowDown: place + width < count ? place + width : place,
    ArrowUp: place >= width ? place - width : place,
    Home: place - (place % width),
    End: place - (place % width) + width - 1,
  })[key];

  // ---------------------------------------------------------------- the selection

  const shown = { collection: collections[0] };
  const chosen = (name) => new Set([...document.querySelectorAll(`input[name=${name}]:checked`)].map((box) => box.value));
  const typeOf = (name) => (shown.collection.tasks.find((task) => task.name === name) || { type: NO_TASK }).type;
  const titleOf = (name) => (shown.collection.tasks.find((task) => task.name === name) || { title: name }).title;
  const sources = () => shown.collection.transfer.rows.filter((name) => chosen("sources").has(typeOf(name)));
  const targets = () => shown.collection.tasks.map((task) => task.name).filter((name) => chosen("targets").has(typeOf(name)));
  const everyType = () => document.querySelectorAll(`#explorer-filters input:not([value=${NO_TASK}]):not(:checked)`).length === 0;

  function accuracy(collection, source, target) {
    const row = collection.transfer.rows.indexOf(source);
    const column = collection.tasks.findIndex((task) => task.name === target);
    const value = row < 0 || column < 0 ? null : collection.transfer.accuracy[row][column];
    if (value === null) return null;
    const of = (part) => (collection.transfer[part] ? collection.transfer[part][row][column] : null);
    return { value, interval: of("interval"), n: of("n"), seeds: of("by_seed") };
  }

  // The share of tuning's gain over the random prompt that a prompt keeps on a target; null if there is no gain
  function recovered(source, target) {
    const tuned = shown.collection.transfer.rows.includes("tuned") ? "tuned" : target; // the first, across models
    const [here, own, random] = [source, tuned, "random"].map((name) => accuracy(shown.collection, name, target));
    if (!here || !own || !random || own.value - random.value < LEARNED) return null;
    return Math.max(0, Math.min(1, (here.value - random.value) / (own.value - random.value)));
  }

  // ---------------------------------------------------------------- statistics

  function ranks(values) { // equal values share the mean of their ranks
    const sorted = [...values].sort((a, b) => a - b);
    return values.map((value) => (sorted.indexOf(value) + sorted.lastIndexOf(value)) / 2);
  }

  function spearman(x, y) {
    const [a, b] = [ranks(x), ranks(y)];
    const middle = (x.length - 1) / 2;
    const product = (one, other) => one.reduce((sum, value, i) => sum + (value - middle) * (other[i] - middle), 0);
    return product(a, b) / Math.sqrt(product(a, a) * product(b, b)); // NaN if all values are equal
  }

  // The mean over targets of the correlation over their sources, and the number of targets that have one
  function meanCorrelation(pairs, similarity) {
    const found = targets().map((target) => {
      const own = pairs.filter((pair) => pair.target === target);
      return own.length < FEWEST ? NaN : spearman(own.map(similarity), own.map((pair) => pair.accuracy));
    }).filter(Number.isFinite);
    return { rho: found.reduce((sum, rho) => sum + rho, 0) / found.length, n: found.length };
  }

  // ---------------------------------------------------------------- the details of a pair

  function details(place, source, target) {
    const rows = [];
    for (const collection of collections) {
      for (const cell of collection.paper || []) {
        if (cell.source === plain(source) && cell.target === plain(target)) {
          rows.push([`the paper, ${cell.where}: ${collection.name}`, `${cell.accuracy} %`, "–", "–"]);
        }
      }
    }
    const elsewhere = (shown.collection.elsewhere || {})[source];
    if (!rows.length) rows.push(["the paper", elsewhere ? `printed only for projectors whose training is stated: see ${elsewhere}` : "not printed", "–", "–"]);
    const seen = [shown.collection, ...collections.filter((other) => other !== shown.collection && !other.repeats)];
    for (const collection of seen) {
      const name = (own) => collection.transfer.rows.concat(collection.tasks.map((task) => task.name))
        .find((other) => plain(other) === plain(own));
      const found = name(source) && name(target) && accuracy(collection, name(source), name(target));
      if (!found) continue;
      const origin = isPublished(collection) ? `published: ${collection.name}` : `ours: ${collection.name}`;
      const made = name(target).startsWith("micro/") ? ", generated tasks" : "";
      const seeds = found.seeds && found.seeds.length > 1 ? `, seeds ${found.seeds.map((one) => percent(one)).join(", ")}` : "";
      rows.push([
        origin + made, percent(found.value) + seeds,
        found.interval ? `${percent(found.interval[0])} to ${percent(found.interval[1])}${seeds ? ", over all seeds" : ""}` : "–",
        found.n || "–",
      ]);
    }
    const what = typeOf(source) === NO_TASK ? `Prompt: ${source}` : `Prompt for ${titleOf(source)} (${TYPES[typeOf(source)]})`;
    const head = make("p", {}, make("strong", {}, `${what}, on ${titleOf(target)} (${TYPES[typeOf(target)]})`));
    const body = rows.map((row) => make("tr", {}, make("th", { scope: "row" }, row[0]), ...cells("td", row.slice(1))));
    const columns = make("tr", {}, ...cells("th", ["numbers of", "accuracy", "95 % interval", "examples"]));
    get(place).replaceChildren(head, make("table", {}, make("thead", {}, columns), make("tbody", {}, ...body)));
  }

  const inOneLine = (source, target) => {
    const found = accuracy(shown.collection, source, target);
    return `${titleOf(source)} on ${titleOf(target)}, ${found ? percent(found.value) : "nothing known"}`;
  };

  function leadsToDetails(item, place, source, target) {
    for (const event of ["focus", "mouseenter", "click"]) {
      item.addEventListener(event, () => {
        details(place, source, target);
        if (place === "explorer-pair") get("explorer-cell").textContent = inOneLine(source, target);
      });
    }
  }

  // ---------------------------------------------------------------- the transfer matrix

  function shade(share) { // one hue that darkens; black or white reads on it, whichever is further from it
    const color = [0, 1, 2].map((i) => Math.round([247, 245, 251][i] + share * ([52, 32, 104][i] - [247, 245, 251][i])));
    const linear = color.map((c) => (c / 255 <= 0.04045 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    return `background:rgb(${color});color:${(light + 0.05) ** 2 > 1.05 * 0.05 ? "#000" : "#fff"}`;
  }

  function drawMatrix() {
    const [rows, columns, scale] = [sources(), targets(), get("explorer-scale").value];
    const all = shown.collection.transfer.accuracy.flat().filter((value) => value !== null);
    const low = Math.floor(10 * Math.min(...all)) / 10;
    const high = Math.ceil(10 * Math.max(...all)) / 10;
    const head = columns.map((name) => make("th", { scope: "col", class: typeOf(name) }, make("span", {}, titleOf(name))));
    const items = [];
    const body = rows.map((source) => make("tr", {},
      make("th", { scope: "row", class: typeOf(source) }, ...parts(titleOf(source))),
      ...columns.map((target) => {
        const found = accuracy(shown.collection, source, target);
        const share = scale === "accuracy" ? found && (found.value - low) / (high - low) : recovered(source, target);
        const cell = make("td", {
          role: "gridcell", "aria-label": inOneLine(source, target), style: found && share !== null ? shade(share) : null,
          class: [source === target ? "own" : "", found && share === null ? "unlearned" : ""].join(" "),
        }, found ? (100 * found.value).toFixed(1) : "");
        leadsToDetails(cell, "explorer-pair", source, target);
        items.push(cell);
        return cell;
      })));
    const table = make("table", { role: "grid", class: "explorer-matrix", "aria-label": `${whose()}: accuracy in %, sources in rows, targets in columns` },
      make("thead", {}, make("tr", {}, make("td", { role: "gridcell" }), ...head)), make("tbody", {}, ...body));
    rove(items, inGrid(columns.length, items.length));
    const ends = scale === "accuracy" ? [percent(low, 0), percent(high, 0)] : ["nothing recovered", "all of it"];
    const key = make("p", { class: "explorer-key" }, `${ends[0]} `,
      ...[0, 0.25, 0.5, 0.75, 1].map((share) => make("span", { style: shade(share), "aria-hidden": "true" })), ` ${ends[1]}`,
      scale === "accuracy" ? "" : `; striped: the gain from tuning is below ${100 * LEARNED} points or unknown`);
    const line = make("p", { id: "explorer-cell" });
    show("explorer-matrix", ...(items.length ? [line, make("div", { class: "explorer-wide" }, table), key] : [nothing()]));
    get("explorer-pair").replaceChildren();
    if (items.length) items[Math.min(1, columns.length - 1)].dispatchEvent(new Event("mouseenter"));
  }

  const nothing = () => make("p", { class: "explorer-nothing" }, "Nothing is selected. Tick at least one type of source and one type of target.");
  const lacks = (what) => make("p", { class: "explorer-nothing" }, what);

  // ---------------------------------------------------------------- figures

  // A figure with axes. `x` and `y`: {low, high, label, ticks: [[place, text]]}; returns it with the functions of place.
  function axes(place, label, x, y, height = 340) {
    const width = Math.max(280, Math.min(640, get(place).clientWidth));
    const [left, right, top, bottom] = [58, width - 10, 10, height - 42];
    const atX = (value) => left + ((value - x.low) / (x.high - x.low || 1)) * (right - left);
    const atY = (value) => bottom - ((value - y.low) / (y.high - y.low || 1)) * (bottom - top);
    const figure = make("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label });
    for (const [value, text] of y.ticks) {
      figure.append(make("line", { x1: left, x2: right, y1: atY(value), y2: atY(value), class: "explorer-grid" }),
        make("text", { x: left - 5, y: atY(value) + 4, "text-anchor": "end" }, text));
    }
    for (const [value, text] of x.ticks) {
      figure.append(make("text", { x: atX(value), y: bottom + 16, "text-anchor": "middle" }, text));
    }
    figure.append(make("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "explorer-axis" }),
      make("text", { x: (left + right) / 2, y: height - 8, "text-anchor": "middle" }, x.label),
      make("text", { x: -(top + bottom) / 2, y: 11, transform: "rotate(-90)", "text-anchor": "middle" }, y.label));
    return { figure, atX, atY };
  }

  function scale(values, label, text, count = 6) { // from a little below the least to a little above the greatest
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const room = (most - least) * 0.06 || Math.abs(most) * 0.06 || 1;
    const [low, high] = [least - room, most + room];
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const ticks = [];
    for (let value = Math.ceil(low / step) * step; value <= high; value += step) ticks.push(value);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    return { low, high, label, ticks: ticks.map((value) => [value, text(value, digits)]) };
  }

  const asPercent = (value, digits) => `${(100 * value).toFixed(Math.max(0, digits - 2))} %`;
  const asNumber = (value, digits) => value.toFixed(digits).replace("-", "−");
  const mark = (type, x, y, more = {}) => make("path", { d: MARKS[type], transform: `translate(${x},${y})`, fill: colors[type], ...more });

  // A short line for a key, with its other marks
  const sample = (stroke, dash, ...more) => make("svg", { width: 40, height: 12, viewBox: "-20 -6 40 12", "aria-hidden": "true" },
    make("line", { x1: -20, x2: 20, y1: 0, y2: 0, stroke, "stroke-width": 2, "stroke-dasharray": dash }), ...more);

  function typesKey(types) {
    const entry = (type) => make("span", {}, make("svg", { width: 12, height: 12, viewBox: "-6 -6 12 12", "aria-hidden": "true" }, mark(type, 0, 0)), ` ${TYPES[type]} `);
    return make("p", { class: "explorer-key" }, "source: ", ...types.map(entry));
  }

  // ---------------------------------------------------------------- similarity and transfer

  function drawScatter() {
    const { similarity, tasks, pairs: which } = shown.collection;
    get("explorer-scatter-pair").replaceChildren();
    if (!similarity) {
      get("explorer-correlation").textContent = "";
      show("explorer-scatter", lacks("A correlation requires the similarities of at least six tasks' prompts and the accuracy of each prompt on each task. Not all of these are available here."));
      return;
    }
    const metric = similarity[get("explorer-metric").value];
    const self = get("explorer-self").checked;
    const place = (name) => tasks.findIndex((task) => task.name === name);
    const pairs = targets().flatMap((target) => sources().filter((source) => typeOf(source) !== NO_TASK && (self || source !== target))
      .map((source) => ({ source, target, similarity: metric.values[place(source)][place(target)], accuracy: accuracy(shown.collection, source, target).value })));
    const only = get("explorer-target").value;
    const drawn = pairs.filter((pair) => !only || pair.target === only);
    if (!drawn.length) {
      get("explorer-correlation").textContent = "";
      show("explorer-scatter", nothing());
      return;
    }
    const { figure, atX, atY } = axes("explorer-scatter", `${whose()}: accuracy on the target by similarity to its prompt, ${drawn.length} pairs`,
      scale(drawn.map((pair) => pair.similarity), `similarity: ${metric.words} (no unit)`, asNumber),
      scale(drawn.map((pair) => pair.accuracy), "accuracy on the target, %", asPercent));
    const points = drawn.sort((a, b) => a.similarity - b.similarity).map((pair) => {
      const says = `${titleOf(pair.source)} on ${titleOf(pair.target)}: similarity ${pair.similarity.toFixed(3)}, accuracy ${percent(pair.accuracy)}`;
      const point = make("g", { role: "img", "aria-label": says, class: "explorer-point" },
        make("title", {}, says), mark(typeOf(pair.source), atX(pair.similarity), atY(pair.accuracy)));
      leadsToDetails(point, "explorer-scatter-pair", pair.source, pair.target);
      return point;
    });
    rove(points, inLine(points.length));
    figure.append(...points);
    show("explorer-scatter", figure, typesKey([...chosen("sources")].filter((type) => TYPES[type])));
    get("explorer-correlation").textContent = sayCorrelation(pairs, metric, only, self, which);
  }

  function sayCorrelation(pairs, metric, only, self, which) {
    const sameType = (pair) => Number(typeOf(pair.source) === typeOf(pair.target));
    if (only) {
      const own = pairs.filter((pair) => pair.target === only);
      if (own.length < FEWEST) return "Too few sources are selected for a correlation.";
      const rho = spearman(own.map((pair) => pair.similarity), own.map((pair) => pair.accuracy));
      return `Spearman's ρ over the ${own.length} sources of ${titleOf(only)}: ${Number.isFinite(rho) ? signed(rho) : "undefined, because all values are equal"}.`;
    }
    const found = meanCorrelation(pairs, (pair) => pair.similarity);
    if (!found.n) return "Too few sources are selected for a correlation.";
    const known = metric.overall[Number(self)];
    const p = known.p < 0.001 ? "p < 0.001" : `p = ${known.p.toFixed(3)}`;
    const sure = everyType() ? ` [${signed(known.low)}, ${signed(known.high)}], ${p}` : " (no interval: some types are left out)";
    const types = meanCorrelation(pairs, sameType);
    return `Spearman's ρ, mean of ${found.n} targets: ${signed(found.rho)}${sure}. Task type alone: ` +
      `${types.n ? signed(types.rho) : "undefined, because all values are equal"}. Prompts compared: ${which || "the published ones, which started from the same vectors"}.`;
  }

  // ---------------------------------------------------------------- neurons by layer

  function drawLayers() {
    const { profile } = shown.collection;
    if (!profile) {
      show("explorer-layers", lacks("Computing which neurons these prompts activate requires the model's weights, which are not in this repository."));
      return;
    }
    const spread = profile.kinds.flatMap((kind) => kind.low ? [...kind.low, ...kind.high] : kind.mean);
    const last = profile.layers.length - 1;
    const x = { low: -0.3, high: last + 0.3, label: "layer, from the bottom", ticks: profile.layers.map((name, place) => [place, name]) };
    const owner = profile.whose || whose();
    const { figure, atX, atY } = axes("explorer-layers", `${owner}: overlap of activated neurons by layer`, x, scale(spread, "overlap of neurons (ON), %", asPercent), 280);
    profile.kinds.forEach((kind, i) => {
      const look = LINES[kind.name];
      const at = (layer) => atX(layer + 0.05 * (i - 1)); // next to each other, so that the intervals do not overlap
      kind.mean.forEach((mean, layer) => {
        if (kind.low) figure.append(make("line", { x1: at(layer), x2: at(layer), y1: atY(kind.low[layer]), y2: atY(kind.high[layer]), stroke: look.stroke, "stroke-width": 1.5 }));
        figure.append(make("path", { d: look.mark, transform: `translate(${at(layer)},${atY(mean)})`, fill: look.stroke }));
      });
      const line = kind.mean.map((mean, layer) => `${layer ? "L" : "M"}${at(layer)},${atY(mean)}`).join("");
      figure.append(make("path", { d: line, fill: "none", stroke: look.stroke, "stroke-width": 2, "stroke-dasharray": look.dash }));
    });
    const entry = (kind) => {
      const look = LINES[kind.name];
      return make("span", {}, sample(look.stroke, look.dash, make("path", { d: look.mark, fill: look.stroke })), ` ${kind.name} `);
    };
    const rows = profile.kinds.flatMap((kind) => kind.mean.map((mean, layer) =>
      [kind.name, profile.layers[layer], percent(mean), kind.low && kind.low[layer] !== null ? `${percent(kind.low[layer])} to ${percent(kind.high[layer])}` : "none"]));
    showOf(owner, "explorer-layers", figure, make("p", { class: "explorer-key" }, ...profile.kinds.map(entry)),
      make("p", {}, profile.says), numbers(["pairs of prompts", "layer", "overlap", "95 % interval"], rows));
  }

  // ---------------------------------------------------------------- the map

  function drawMap() {
    const { maps } = shown.collection;
    if (!maps) {
      show("explorer-map", lacks("These prompts are not in this repository."));
      return;
    }
    const map = maps[get("explorer-of").value];
    const prompts = map.prompts.map(([task, seed], i) => ({ task, seed, at: map.places[i] })).filter((prompt) => chosen("sources").has(typeOf(prompt.task)));
    if (!prompts.length) {
      show("explorer-map", nothing());
      return;
    }
    const axis = (i) => scale(map.places.map((at) => at[i]), `component ${i + 1} (no unit): ${percent(map.shares[i], 0)} of the variance`, asNumber);
    const { figure, atX, atY } = axes("explorer-map", `${whose()}: ${prompts.length} prompts along two principal components`, axis(0), axis(1), 420);
    const first = Math.min(...prompts.map((prompt) => prompt.seed));
    const labels = prompts.map(({ task, seed, at }) => {
      const [x, y] = [atX(at[0]), atY(at[1])];
      const says = titleOf(task) + (seed === null ? "" : `, seed ${seed}`);
      figure.append(make("g", { role: "img", "aria-label": says }, make("title", {}, says), mark(typeOf(task), x, y)));
      return { x, y, type: typeOf(task), text: Number(seed) === first ? plain(titleOf(task)) : String(seed) };
    });
    for (const { x, y, from, end, type, text } of apart(labels, { left: 60, right: Number(figure.getAttribute("width")), top: 10, bottom: 375 })) {
      const side = x + (end ? -8 : 8);
      if (y !== from) figure.append(make("line", { x1: x, y1: from, x2: side, y2: y, class: "explorer-leader" }));
      figure.append(make("text", { x: side, y: y + 4, "text-anchor": end ? "end" : "start", class: `explorer-label ${type}`, "aria-hidden": "true" }, text));
    }
    const rows = prompts.map((prompt) => [titleOf(prompt.task), prompt.seed === null ? "–" : prompt.seed, ...prompt.at.map((value) => asNumber(value, 3))]);
    show("explorer-map", figure, typesKey([...chosen("sources")].filter((type) => TYPES[type])),
      numbers(["task", "seed", "component 1", "component 2"], rows));
  }

  // Each label is next to its mark, or above or below it, clear of marks and other labels; without room it is left out
  function apart(labels, frame) {
    const taken = labels.map(({ x, y }) => ({ from: x - 4, to: x + 4, y }));
    const clear = (box) => taken.every((other) => Math.abs(other.y - box.y) > 11 || box.from > other.to || other.from > box.to);
    const inside = (box) => box.from > frame.left && box.to < frame.right && box.y > frame.top && box.y < frame.bottom;
    return labels.flatMap((label) => {
      const long = 6.5 * label.text.length;
      const boxes = [0, 1, -1, 2, -2, 3, -3].flatMap((step) => [false, true].map((end) => ({
        y: label.y + 12 * step, end, from: label.x + (end ? -8 - long : 8), to: label.x + (end ? -8 : 8 + long),
      })));
      const box = boxes.find((found) => inside(found) && clear(found));
      if (!box) return [];
      taken.push(box);
      return [{ ...label, from: label.y, y: box.y, end: box.end }];
    });
  }

  // ---------------------------------------------------------------- training curves

  function drawCurves() {
    const { curves } = shown.collection;
    if (!curves) {
      show("explorer-curves", lacks("No training curves were published, so none can be drawn."));
      return;
    }
    const tasks = [...new Set(curves.runs.map((run) => run.task))].filter((task) => chosen("sources").has(typeOf(task)));
    const all = curves.runs.flatMap((run) => run.accuracy);
    const [width, height, left, bottom] = [190, 118, 40, 94];
    const last = Math.max(...curves.runs.flatMap((run) => run.step));
    const [low, high] = [Math.max(0, Math.min(...all) - 0.03), Math.min(1, Math.max(...all) + 0.03)];
    const atX = (step) => left + (step / last) * (width - left - 4);
    const atY = (value) => bottom - ((value - low) / (high - low)) * (bottom - 4);
    const seeds = [...new Set(curves.runs.map((run) => run.seed))].sort((a, b) => a - b);
    const dash = (seed) => SEED_DASHES[seeds.indexOf(seed) % SEED_DASHES.length];
    const starts = [...new Set(curves.runs.filter((run) => run.start).map((run) => run.start))];
    const startColor = (start) => START_COLORS[starts.indexOf(start) % START_COLORS.length];
    const panels = tasks.map((task) => {
      const runs = curves.runs.filter((run) => run.task === task);
      const best = runs.filter((run) => !run.start).map((run) => Math.max(...run.accuracy));
      const says = `${whose()}, ${titleOf(task)}: best accuracy on dev ${best.map((value) => percent(value)).join(", ")}`;
      const majority = atY(curves.majority[task]);
      const figure = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": says },
        make("line", { x1: left, x2: width - 4, y1: bottom, y2: bottom, class: "explorer-axis" }),
        make("line", { x1: left, x2: width - 4, y1: majority, y2: majority, class: "explorer-majority" }),
        ...runs.map((run) => make("path", {
          d: run.step.map((step, n) => `${n ? "L" : "M"}${atX(step)},${atY(run.accuracy[n])}`).join(""), fill: "none",
          stroke: run.start ? startColor(run.start) : colors[typeOf(task)], "stroke-width": 1.5, "stroke-dasharray": dash(run.seed),
        })),
        make("text", { x: left, y: height - 4 }, "0"), make("text", { x: width - 4, y: height - 4, "text-anchor": "end" }, `${last} steps`),
        ...[low, high].map((value) => make("text", { x: left - 3, y: atY(value) + (value === high ? 9 : 0), "text-anchor": "end" }, percent(value, 0))));
      const caption = make("figcaption", {}, make("strong", { class: typeOf(task) }, ...parts(titleOf(task))), ` ${best.map((value) => percent(value)).join(", ")}`);
      return make("figure", {}, caption, figure);
    });
    const rows = curves.runs.filter((run) => tasks.includes(run.task)).map((run) => {
      const best = Math.max(...run.accuracy);
      return [titleOf(run.task), run.start || "random vectors", run.seed, percent(best), run.step[run.accuracy.indexOf(best)], percent(curves.majority[run.task])];
    });
    show("explorer-curves", ...(tasks.length ? [make("div", { class: "explorer-panels" }, ...panels),
      make("p", {}, `Accuracy on dev, from ${percent(low, 0)} to ${percent(high, 0)}, by training step. Each line is a seed; the dotted line is the share of the most frequent label. The numbers above a panel are the best accuracy of each seed${starts.length ? " that started from random vectors" : ""}.`),
      make("p", { class: "explorer-key" }, ...seeds.map((seed) => make("span", {}, sample("#1d2730", dash(seed)), ` seed ${seed} `)),
        ...starts.map((start) => make("span", {}, sample(startColor(start), ""), ` started from another task's prompt: ${start} `))),
      numbers(["task", "started from", "seed", "best on dev", "at step", "most frequent label"], rows)] : [nothing()]));
  }

  // ---------------------------------------------------------------- controls

  const options = (id, entries) => get(id).replaceChildren(...entries.map(([value, text]) => make("option", { value }, text)));

  // How well similarity predicts transfer here, in a sentence
  function finding({ similarity, opens_on: best }) {
    if (!similarity) return "";
    const { name, overall: [{ rho, low, high, n }] } = similarity[best];
    return ` The embedding metric that predicts transfer best is ${name}: Spearman's ρ ${signed(rho)} [${signed(low)}, ${signed(high)}], mean of ${n} targets, without self pairs.`;
  }

  function choose() {
    shown.collection = collections.find((collection) => collection.id === get("explorer-whose").value);
    const { says, source, similarity, maps, transfer } = shown.collection;
    get("explorer-says").replaceChildren(make("strong", {}, says), " ", make("a", { href: `../${source}` }, "Origin of these numbers"), ".", finding(shown.collection));
    options("explorer-metric", (similarity || []).map((metric, i) => [i, metric.name]));
    if (similarity) get("explorer-metric").value = shown.collection.opens_on; // the metric with the highest correlation
    options("explorer-of", (maps || []).map((map, i) => [i, map.of]));
    const random = transfer.rows.includes("random");
    const recovery = get("explorer-scale").querySelector("[value=recovered]");
    recovery.disabled = !random;
    recovery.textContent = `recovered share of the gain from tuning${random ? "" : " (requires a random prompt's row)"}`;
    if (!random) get("explorer-scale").value = "accuracy";
    draw();
  }

  function draw() {
    const target = get("explorer-target").value;
    options("explorer-target", [["", "every target"], ...targets().map((name) => [name, titleOf(name)])]);
    get("explorer-target").value = targets().includes(target) ? target : "";
    for (const part of [drawMatrix, drawScatter, drawLayers, drawMap, drawCurves]) part();
  }

  // ---------------------------------------------------------------- the address contains the selection

  const CHOSEN = ["whose", "scale", "metric", "target", "of"]; // select elements, in the order in which they depend on each other

  function remember() {
    const state = new URLSearchParams();
    for (const name of CHOSEN) if (get(`explorer-${name}`).value) state.set(name, get(`explorer-${name}`).value);
    if (get("explorer-self").checked) state.set("self", "yes");
    for (const name of ["sources", "targets"]) {
      if (document.querySelector(`input[name=${name}]:not(:checked)`)) state.set(name, [...chosen(name)].join("."));
    }
    try { history.replaceState(null, "", `?${state}${location.hash}`); } catch (error) { /* some browsers do not allow this in a folder */ }
  }

  function recall() {
    const state = new URLSearchParams(location.search);
    const take = (name) => {
      const options = [...get(`explorer-${name}`).options];
      if (options.some((option) => option.value === state.get(name) && !option.disabled)) get(`explorer-${name}`).value = state.get(name);
    };
    for (const name of ["sources", "targets"]) {
      if (state.has(name)) for (const box of document.querySelectorAll(`input[name=${name}]`)) box.checked = state.get(name).split(".").includes(box.value);
    }
    get("explorer-self").checked = state.get("self") === "yes";
    take("whose");
    choose(); // determines the options of the other elements
    for (const name of CHOSEN.slice(1)) take(name);
    draw();
  }

  function start() {
    const groups = new Map();
    for (const collection of collections) {
      if (!groups.has(collection.group)) groups.set(collection.group, make("optgroup", { label: collection.group }));
      groups.get(collection.group).append(make("option", { value: collection.id }, collection.name));
    }
    get("explorer-whose").replaceChildren(...groups.values());
    get("explorer-whose").addEventListener("change", choose);
    get("explorer-filters").addEventListener("change", draw);
    get("explorer-scale").addEventListener("change", drawMatrix);
    for (const id of ["explorer-metric", "explorer-target", "explorer-self"]) get(id).addEventListener("change", drawScatter);
    get("explorer-of").addEventListener("change", drawMap);
    document.querySelectorAll(".explorer").forEach((part) => {
      part.hidden = false;
      part.addEventListener("change", remember);
    });
    recall();
    let width = window.innerWidth;
    window.addEventListener("resize", () => {
      if (window.innerWidth !== width) draw(); // a phone's keyboard and bars change the height alone
      width = window.innerWidth;
    });
  }
  start();
})();
