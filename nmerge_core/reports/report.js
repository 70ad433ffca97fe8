"use strict";
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const theme = () => root.dataset.theme || (system.matches ? "dark" : "light");
const figures = [...document.querySelectorAll(".figure")].map((place) => [
  place.appendChild(document.createElement("div")),
  JSON.parse(place.querySelector("script").textContent),
]);
const draw = (name) =>
  figures.forEach(([place, drawn]) =>
    Plotly.react(place, drawn[name].data, drawn[name].layout, { displaylogo: false, responsive: true }));
document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = theme() === "dark" ? "light" : "dark";
  draw(theme());
});
system.addEventListener("change", () => draw(theme()));
addEventListener("beforeprint", () => { root.dataset.printed = theme(); root.dataset.theme = "light"; draw("light"); });
addEventListener("afterprint", () => { root.dataset.theme = root.dataset.printed; draw(theme()); });
draw(theme());
