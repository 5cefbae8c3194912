"use strict";
// The page's own behaviour: light and dark, charts in its colours, tables that sort, filter and compare, trees that fold.
(() => {
  const root = document.documentElement;
  const wantsDark = window.matchMedia("(prefers-color-scheme: dark)");
  const recall = () => { try { return localStorage.getItem("edgespa-theme"); } catch { return null; } };
  let chosen = recall();
  let printing = false;

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const drawn = new Set();

  // What a chart takes from the page, under whatever it says itself.
  function dressed(layout) {
    const line = colour("--line"), ink = colour("--ink");
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
    const out = {
      ...layout, autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, family: "system-ui, sans-serif", size: 12 },
      hoverlabel: { bgcolor: colour("--raised"), bordercolor: line, font: { color: ink }, align: "left" },
      margin: { l: 56, r: 16, t: 14, b: 46, ...(layout.margin || {}) },
      legend: { orientation: "h", yanchor: "bottom", y: 1.02, x: 0, ...(layout.legend || {}) },
    };
    for (const key of Object.keys(layout)) {
      if (!/^[xy]axis\d*$/.test(key)) continue;
      const title = layout[key].title;
      out[key] = { ...axis, ...layout[key] };
      // Without a distance of its own, a title may lie over the axis' words where these are long.
      if (title) out[key].title = { standoff: 12, ...(typeof title === "string" ? { text: title } : title) };
    }
    for (const key of ["xaxis", "yaxis"]) out[key] = out[key] || axis;
    return out;
  }

  function draw(element) {
    const figure = JSON.parse(document.querySelector(`script[data-for="${element.id}"]`).textContent);
    const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
    for (const each of figure.data) {
      // Its own choice of a colour takes see-through cells for full ones.
      if (each.type === "heatmap" && each.texttemplate) each.textfont = { color: colour("--ink"), ...each.textfont };
    }
    if (drawn.has(element)) Plotly.react(element, figure.data, dressed(figure.layout), options);
    else Plotly.newPlot(element, figure.data, dressed(figure.layout), options);
    drawn.add(element);
  }

  function dress() {
    const dark = !printing && (chosen ? chosen === "dark" : wantsDark.matches);
    root.dataset.theme = dark ? "dark" : "light";
    for (const element of drawn) draw(element);
  }

  dress();
  wantsDark.addEventListener("change", dress);
  document.getElementById("theme").addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("edgespa-theme", chosen); } catch { /* a file may have no storage */ }
    dress();
  });

  // Charts are drawn when they come near: a long page opens at once. On paper all of them are there.
  const plots = [...document.querySelectorAll(".plot")];
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { watch.unobserve(entry.target); draw(entry.target); }
    }
  }, { rootMargin: "800px" });
  for (const each of plots) watch.observe(each);
  function paper() {
    printing = true;
    for (const each of plots) if (!drawn.has(each)) draw(each);
    dress();
    for (const each of plots) Plotly.relayout(each, { autosize: false, width: 700 });
    for (const each of document.querySelectorAll("figure.tree details")) {
      each.dataset.was = each.open ? "open" : "";
      each.open = true;
    }
  }
  function screen() {
    printing = false;
    dress();
    for (const each of plots) Plotly.relayout(each, { autosize: true, width: undefined });
    for (const each of document.querySelectorAll("figure.tree details")) each.open = each.dataset.was === "open";
  }
  window.addEventListener("beforeprint", paper);
  window.addEventListener("afterprint", screen);

  function valueOf(row, column) {
    const cell = row.cells[column];
    const text = cell.dataset.value !== undefined ? cell.dataset.value : cell.textContent.trim();
    const number = text === "" ? NaN : Number(text);
    return Number.isNaN(number) ? text : number;
  }

  // Numbers before texts, nothing last, whichever way.
  function order(a, b, up) {
    if (a === "" || b === "") return (a === "") - (b === "");
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    const found = typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
    return up ? found : -found;
  }

  function compare(figure, body, heads) {
    const place = figure.querySelector(".compared");
    const rows = [...body.rows].filter((row) => row.querySelector(".choose input").checked);
    place.replaceChildren();
    if (rows.length !== 2) return;
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const text of ["", "first", "second", "second / first"]) {
      const cell = document.createElement("th");
      cell.textContent = text;
      head.append(cell);
    }
    const lines = table.createTBody();
    heads.forEach((name, index) => {
      const [one, two] = rows.map((row) => row.cells[index + 1]);
      const [a, b] = rows.map((row) => valueOf(row, index + 1));
      const line = lines.insertRow();
      const differs = one.textContent !== two.textContent;
      for (const text of [name, one.textContent.trim(), two.textContent.trim(),
        typeof a === "number" && typeof b === "number" && a !== 0 ? (b / a).toPrecision(3) : ""]) {
        line.insertCell().textContent = text;
      }
      if (differs) line.classList.add("chosen");
    });
    place.append(table);
  }

  for (const figure of document.querySelectorAll("figure.table")) {
    const table = figure.querySelector("table"), body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    const offset = table.classList.contains("compare") ? 1 : 0;
    heads.forEach((head, index) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const each of heads) if (each.hasAttribute("aria-sort")) each.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...body.rows];
        rows.sort((a, b) => order(valueOf(a, index), valueOf(b, index), up));
        body.append(...rows);
      });
    });
    const filter = figure.querySelector(".filter");
    if (filter) {
      const count = figure.querySelector(".count");
      filter.addEventListener("input", () => {
        const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
        let shown = 0;
        for (const row of body.rows) {
          const text = row.textContent.toLowerCase();
          row.hidden = !words.every((word) => text.includes(word));
          shown += !row.hidden;
        }
        count.textContent = words.length ? `${shown} of ${body.rows.length} rows` : "";
      });
    }
    if (offset) {
      const names = heads.slice(1).map((head) => head.textContent.trim());
      body.addEventListener("change", (event) => {
        const boxes = [...body.querySelectorAll(".choose input")].filter((box) => box.checked);
        if (boxes.length > 2) boxes.find((box) => box !== event.target).checked = false;
        for (const row of body.rows) row.classList.toggle("chosen", row.querySelector(".choose input").checked);
        compare(figure, body, names);
      });
    }
  }

  for (const figure of document.querySelectorAll("figure.tree")) {
    for (const [name, open] of [["unfold", true], ["fold", false]]) {
      figure.querySelector(`.${name}`).addEventListener("click", () => {
        for (const each of figure.querySelectorAll("details")) each.open = open;
      });
    }
  }
})();
