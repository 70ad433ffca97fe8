// Two buttons that save a figure, laid out on the server for paper, as an image made in the browser.

const FORMATS = [["PNG", 300 / 96], ["SVG", 1]]; // what it is called, and image pixels per pixel: 300 to the inch

async function save(data, format, scale, bar) {
  const figure = JSON.parse(data.figure);
  const { width, height } = figure.layout;
  const graph = document.createElement("div");
  Object.assign(graph.style, { position: "fixed", left: "-20000px", width: `${width}px`, height: `${height}px` });
  document.body.append(graph);
  const layout = stacked(figure.layout, width, height);
  await window.Plotly.newPlot(graph, figure.data, layout, { staticPlot: true });
  await window.Plotly.react(graph, figure.data, withLegend(layout, legendExcess(graph), false));
  const ending = format.toLowerCase();
  const link = document.createElement("a");
  link.href = await window.Plotly.toImage(graph, { format: ending, width, height, scale });
  link.download = `${data.name}.${ending}`;
  bar.append(link); // inside the menu: a click outside, as Plotly's own download makes, would close it
  link.click();
  link.remove();
  window.Plotly.purge(graph);
  graph.remove();
}

export default function ({ data, parentElement }) {
  const bar = parentElement.querySelector(".images");
  bar.replaceChildren(
    ...FORMATS.map(([format, scale]) => {
      const button = document.createElement("button");
      button.textContent = format;
      button.type = "button";
      button.onclick = () => save(data, format, scale, bar);
      return button;
    }),
  );
}
