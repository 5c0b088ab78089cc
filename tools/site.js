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

  const KIND = { library: 0.35, house: 0.5, "CONTRIBUTING.html": 0.5 }; // pages and prose rank above the API and pages about the site
  const NOISE = new Set("a an and are as at be by can could do does for from how i in is it my of on or that the this to was what when where which who why with would you your".split(" "));
  const ALIKE = { // words that readers type, and those used on the pages
    reproduce: ["findings", "holds", "verdict"], reproduces: ["reproduce", "findings", "holds", "verdict"], replicate: ["reproduce", "findings", "holds"], hold: ["holds", "verdict"],
    long: ["cost", "hours"], take: ["costs"], gpu: ["cuda", "h100"], csv: ["files"], finetune: ["fine-tuning"], finetuning: ["fine-tuning"],
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

  // What an entry says about a word: titles count more than text, and long texts less than short ones
  function worth(entry, word) {
    const of = (text) => Math.max(count(text, word), ...(ALIKE[word] || []).map((other) => 0.7 * count(text, other)));
    const part = (text, weight, usual) => {
      const times = of(text);
      return weight * times / (times + 0.8 + 0.2 * text.length / usual);
    };
    return part(entry.titleWords, 4, 4) + part(entry.sectionWords, 4, 4) + part(entry.textWords, 2, 150);
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
        const found = words.map((word) => index.map((entry) => worth(entry, word)));
        const rare = found.map((of) => Math.log(1 + index.length / (1 + of.filter(Boolean).length))); // rare words count more
        const all = rare.reduce((sum, one) => sum + one, 0);
        const scored = index.map((item, n) => {
          const sum = found.reduce((total, of, k) => total + rare[k] * of[n], 0);
          const matched = found.reduce((total, of, k) => total + (of[n] ? rare[k] : 0), 0) / all;
          const name = (item.section || item.title).toLowerCase(), phrase = query.trim().toLowerCase();
          const whole = name === phrase ? 1.7 : words.length > 1 && item.lower.includes(phrase) ? 1.3 : 1;
          const kind = KIND[item.href.split("/")[1] || item.href.split("#")[0]] || 1;
          return { item, score: sum * matched ** 2 * whole * kind * (!item.section ? 1.25 : item.section === "Run it again" ? 0.6 : 1) };
        }).filter((one) => one.score > 0).sort((one, other) => other.score - one.score);
        const seen = {}; // the sections of one page do not fill the first places
        for (const one of scored) {
          const page = one.item.href.split("#")[0];
          seen[page] = (seen[page] || 0) + 1;
          one.score *= 0.75 ** (seen[page] - 1);
        }
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
