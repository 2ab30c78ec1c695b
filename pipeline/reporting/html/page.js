"use strict";
// Draws every chart of the page in the page's own colours, again when it turns dark or light.
(() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const theme = () => ({
    background: "transparent",
    font: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
    view: { stroke: null },
    axis: {
      labelColor: colour("--quiet"), titleColor: colour("--quiet"), gridColor: colour("--line"),
      domainColor: colour("--line-strong"), tickColor: colour("--line-strong"), labelFontSize: 11, titleFontSize: 11,
      titleFontWeight: 500, labelLimit: 150, titlePadding: 8,
    },
    legend: {
      labelColor: colour("--quiet"), titleColor: colour("--quiet"), labelFontSize: 11, titleFontSize: 11,
      titleFontWeight: 500, symbolSize: 60,
    },
    mark: { color: colour("--main") },
    bar: { color: colour("--main") },
    rule: { color: colour("--main") },
    range: { category: ["--main", "--second", "--third", "--fourth", "--fifth"].map(colour) },
  });
  const places = [...document.querySelectorAll("[data-chart]")];
  const drawn = new Map();
  const draw = async (place) => {
    const spec = JSON.parse(document.getElementById(place.dataset.chart).textContent);
    drawn.get(place)?.finalize();
    const options = { actions: false, renderer: "svg", ast: true, config: theme(), tooltip: { theme: "custom" } };
    drawn.set(place, await vegaEmbed(place, spec, options));
  };
  const drawAll = async () => {
    document.body.dataset.charts = "drawing";
    for (const place of places) await draw(place);
    document.body.dataset.scheme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    document.body.dataset.charts = String(places.length);
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  drawAll();
})();
