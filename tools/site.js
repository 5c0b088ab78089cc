// Additions to every rendered page: light or dark, scrolling with the keyboard, and search.
(() => {
  "use strict";
  const root = document.documentElement;

  // ---------------------------------------------------------------- light or dark

  const stored = () => { try { return localStorage.getItem("theme"); } catch (error) { return null; } };
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (stored() ? stored() === "dark" : prefersDark.matches);

  function show() {
    const theme = isDark() ? "dark" : "light";
    root.dataset.bsTheme = theme;
    root.classList.toggle("quarto-dark", theme === "dark"); // the colors of code
    document.querySelectorAll(".navbar").forEach((bar) => { bar.dataset.bsTheme = theme; });
    document.querySelectorAll(".theme-toggle").forEach((button) => { button.setAttribute("aria-pressed", theme === "dark"); });
  }
  show(); // before anything is drawn, so that a dark page does not flash
  prefersDark.addEventListener("change", show);

  // ---------------------------------------------------------------- scrolling with the keyboard

  const SCROLLS = ".scroll, .cell-output, .equation, math[display=block], pre, div.sourceCode, .explorer-wide, .sidebar-navigation, .margin-sidebar";

  function reach() {
    for (const area of document.querySelectorAll(SCROLLS)) {
      const wide = area.scrollWidth > area.clientWidth && ["auto", "scroll"].includes(getComputedStyle(area).overflowX);
      if (!wide) {
        if (area.dataset.reached) area.removeAttribute("tabindex");
        continue;
      }
      if (!area.hasAttribute("tabindex")) {
        area.tabIndex = 0;
        area.dataset.reached = "yes";
      }
    }
  }

  // ---------------------------------------------------------------- a table as CSV

  function offerTable(button) {
    const table = button.closest(".table-origin").parentElement.querySelector("table");
    const quoted = (cell) => `"${cell.textContent.trim().replace(/\s+/g, " ").replaceAll('"', '""')}"`;
    const grid = [...table.rows].map(() => []);
    [...table.rows].forEach((row, top) => {
      for (const cell of row.cells) { // a cell that spans several rows or columns is repeated in each
        const left = [...grid[top], undefined].findIndex((text) => text === undefined);
        for (let down = 0; down < cell.rowSpan; down += 1) {
          for (let along = 0; along < cell.colSpan; along += 1) grid[top + down][left + along] = quoted(cell);
        }
      }
    });
    button.hidden = false;
    button.setAttribute("aria-label", `CSV of ${table.caption ? table.caption.textContent : "this table"}`);
    button.addEventListener("click", () => {
      const text = grid.map((row) => row.join(",")).join("\r\n");
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv" }));
      link.download = `${((table.caption && table.caption.textContent) || "table").split(".")[0].replace(/\W+/g, "_")}.csv`;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    show();
    for (const button of document.querySelectorAll(".theme-toggle")) {
      button.hidden = false;
      button.addEventListener("click", () => {
        try { localStorage.setItem("theme", isDark() ? "light" : "dark"); } catch (error) { return; } // a private window
        show();
      });
    }
    document.querySelectorAll(".to-csv").forEach(offerTable);
    reach();
    document.addEventListener("toggle", reach, true); // a folded element may scroll once it is open
    window.addEventListener("resize", reach);
    window.matchMedia("print").addEventListener("change", reach); // nothing scrolls on paper
  });
  window.addEventListener("load", () => { reach(); show(); });

  // ---------------------------------------------------------------- search

  const KIND = { library: 0.35, house: 0.6 }; // pages and prose rank above the API and pages about the site
  const NOISE = new Set("a an and are as at be by can could do does for from how i in is it my of on or that the this to was what when where which who why with would you your".split(" "));
  const ALIKE = { // words that readers type, and those used on the pages
    reproduce: ["holds", "verdict"], reproduces: ["reproduce", "holds", "verdict"], replicate: ["reproduce", "holds"], hold: ["holds", "verdict"],
    gpu: ["cuda", "h100"], csv: ["files"], finetune: ["fine-tuning"], finetuning: ["fine-tuning"],
  };
  const wordsOf = (text) => text.toLowerCase().split(/[^\p{L}\p{N}_.-]+/u).map((word) => word.replace(/^[.-]+|[.-]+$/g, "")).filter(Boolean);

  // How often a word occurs in a text: as a whole word, at the start of another, or inside one
  function count(words, asked) {
    let found = 0;
    for (const word of words) {
      if (word === asked) found += 1;
      else if (asked.length > 2 && word.startsWith(asked)) found += 0.6;
      else if (asked.length > 3 && word.includes(asked)) found += 0.3;
    }
    return found;
  }

  function score(entry, asked, phrase) {
    let sum = 0, matched = 0;
    for (const word of asked) {
      const of = (text) => Math.max(count(text, word), ...(ALIKE[word] || []).map((other) => 0.7 * count(text, other)));
      const places = [[of(entry.titleWords), 8], [of(entry.sectionWords), 6], [of(entry.textWords), 1]];
      const worth = places.reduce((total, [times, weight]) => total + weight * Math.min(times, 3) / (times + 1) * 2, 0);
      if (worth) matched += 1;
      sum += worth;
    }
    if (!matched) return 0;
    if (asked.length > 1 && entry.lower.includes(phrase)) sum += 6;
    const folder = entry.href.split("/")[1] || "";
    return sum * (matched / asked.length) ** 2 * (KIND[folder] || 1) * (entry.section ? 1 : 1.25);
  }

  window.siteSearch = (index) => {
    for (const entry of index) {
      Object.assign(entry, {
        titleWords: wordsOf(entry.title), sectionWords: wordsOf(entry.section), textWords: wordsOf(entry.text),
        lower: `${entry.title} ${entry.section} ${entry.text}`.toLowerCase(),
      });
    }
    return {
      search(query, { limit = 20 } = {}) {
        const typed = wordsOf(query);
        const asked = typed.filter((word) => !NOISE.has(word));
        const words = asked.length ? asked : typed;
        const scored = index.map((item) => ({ item, score: score(item, words, query.toLowerCase()) })).filter((one) => one.score > 0);
        return scored.sort((one, other) => other.score - one.score).slice(0, limit);
      },
    };
  };

  // The index is a separate script, loaded at the first search, because a page opened from a folder cannot fetch files
  window.siteIndex = (offset) => new Promise((done) => {
    if (window.searchIndex) return done(window.searchIndex);
    const script = document.createElement("script");
    script.src = `${offset}site_libs/search-index.js`;
    script.onload = () => done(window.searchIndex);
    script.onerror = () => done([]);
    document.head.append(script);
  });
})();
