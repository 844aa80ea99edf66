"use strict";
(() => {
  const root = document.documentElement, wide = matchMedia("(prefers-color-scheme: dark)");
  const asked = new URLSearchParams(location.search).get("theme");
  const show = (dark) => { root.dataset.theme = dark ? "dark" : "light"; };
  show(asked ? asked === "dark" : wide.matches);
  wide.addEventListener("change", (e) => show(e.matches));
  document.getElementById("theme").addEventListener("click", () => show(root.dataset.theme !== "dark"));
  let before = "light";
  addEventListener("beforeprint", () => { before = root.dataset.theme; show(false); });
  addEventListener("afterprint", () => show(before === "dark"));

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.querySelectorAll("th")], body = table.tBodies[0];
    const value = (row, i) => { const cell = row.cells[i]; return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim(); };
    heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => {
        const x = value(a, i), y = value(b, i);
        if (x === "" || y === "") return (x === "") - (y === "");  // empty cells stay last
        const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
        return down ? -order : order;
      });
      body.append(...rows);
    }));
  }

  for (const figure of document.querySelectorAll(".compare")) {
    const layers = figure.querySelector(".layers"), slide = figure.querySelector(".slide"), stage = figure.querySelector(".stage");
    const side = (name) => figure.querySelector("select." + name), divider = figure.querySelector(".divider");
    let zoom = 1;
    layers.style.aspectRatio = figure.dataset.width + " / " + figure.dataset.height;
    const update = () => {
      const cut = Number(slide.value);
      for (const image of layers.querySelectorAll("img")) {
        const left = image.dataset.kind === side("left").value, right = image.dataset.kind === side("right").value;
        image.className = left ? "left" : right ? "right" : "";
        image.style.clipPath = left && right ? "" : left ? `inset(0 ${100 - cut}% 0 0)` : `inset(0 0 0 ${cut}%)`;
      }
      divider.style.left = cut + "%";
      layers.style.width = 100 * zoom + "%";
    };
    const enlarge = (factor, x = 0.5, y = 0.5) => {
      const next = Math.min(8, Math.max(1, zoom * factor)), gain = next / zoom;
      const px = stage.scrollLeft + x * stage.clientWidth, py = stage.scrollTop + y * stage.clientHeight;
      zoom = next; update();
      stage.scrollLeft = px * gain - x * stage.clientWidth; stage.scrollTop = py * gain - y * stage.clientHeight;
    };
    figure.querySelector(".zoom-in").addEventListener("click", () => enlarge(1.5));
    figure.querySelector(".zoom-out").addEventListener("click", () => enlarge(1 / 1.5));
    stage.addEventListener("wheel", (e) => {
      if (!e.ctrlKey) return;
      e.preventDefault();
      const box = stage.getBoundingClientRect();
      enlarge(e.deltaY < 0 ? 1.2 : 1 / 1.2, (e.clientX - box.left) / box.width, (e.clientY - box.top) / box.height);
    }, { passive: false });
    const drag = (e) => {
      if (e.buttons !== 1 && e.type !== "pointerdown") return;
      const box = layers.getBoundingClientRect();
      slide.value = 100 * (e.clientX - box.left) / box.width; update();
    };
    stage.addEventListener("pointerdown", drag); stage.addEventListener("pointermove", drag);
    slide.addEventListener("input", update);
    for (const each of figure.querySelectorAll("select")) each.addEventListener("change", update);
    update();
  }

  for (const figure of document.querySelectorAll(".paper")) {
    const svg = figure.querySelector("svg");
    let whole = Number(svg.dataset.width) <= 700;
    const fit = () => { svg.style.maxWidth = whole ? "100%" : "none"; svg.style.width = whole ? "" : svg.dataset.width + "px"; };
    figure.querySelector(".fit").addEventListener("click", () => { whole = !whole; fit(); });
    fit();
  }
})();
