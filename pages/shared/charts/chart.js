// Draws a Plotly figure, and the next one in its place by changing what differs: quicker than drawing it anew, and the
// reader's zoom and hidden traces stay as long as the figure has the same panels, axes and traces.

const FULLSCREEN = {
  name: "Fullscreen",
  title: "Fullscreen",
  icon: { width: 24, height: 24, path: "M4 4h6v2H6v4H4zM14 4h6v6h-2V6h-4zM4 14h2v4h4v2H4zM18 14h2v6h-6v-2h4z" },
  click: (graph) => (document.fullscreenElement ? document.exitFullscreen() : graph.requestFullscreen()),
};

const TOOLBAR = 40; // pixels below a figure that fills the screen

let library; // the promise that Plotly is there, one for all charts of the tab
const charts = new WeakMap(); // a component's element → { graph, figure }: its chart and the newest figure for it

async function fetched(path) {
  // Found beside the app's own script, whose address is right behind any proxy. Streamlit lets a browser keep the file
  // but not trust it; its address has the version, so it need not be asked for again.
  const app = document.querySelector('script[type="module"][src*="static/js/"]').src;
  const response = await fetch(new URL(`../../${path}`, app), { cache: "force-cache" });
  if (!response.ok) throw new Error(`Plotly could not be loaded from ${response.url}: ${response.status}`);
  const script = document.createElement("script");
  script.src = URL.createObjectURL(await response.blob());
  await new Promise((done) => {
    script.onload = done;
    document.head.append(script);
  });
}

function place(parentElement) {
  const graph = document.createElement("div");
  graph.className = "chart";
  graph.setAttribute("role", "img");
  parentElement.append(graph);
  const chart = { graph, figure: null, excess: {} };
  new ResizeObserver(() => resize(chart)).observe(graph);
  return chart;
}

function laidOut({ graph, figure, excess }) {
  const full = document.fullscreenElement === graph;
  const width = graph.clientWidth;
  const names = figure.data.map((trace) => trace.name).join();
  const layout = titled(stacked({ height: 450, ...figure.layout }, width), width);
  const fitted = withLegend(layout, excess[`${width} ${names}`] ?? 0, true);
  return { ...fitted, width, ...(full ? { height: window.innerHeight - TOOLBAR } : {}) };
}

function measure(chart) {
  const names = chart.figure.data.map((trace) => trace.name).join();
  const key = `${chart.graph.clientWidth} ${names}`;
  const before = chart.excess[key];
  chart.excess[key] ??= legendExcess(chart.graph);
  return before !== chart.excess[key] && chart.excess[key] !== 0;
}

function structure({ data, layout }) {
  const axes = Object.keys(layout).filter((name) => /^[xy]axis/.test(name));
  const panels = layout.annotations?.map((annotation) => annotation.text);
  return JSON.stringify([data.map((trace) => trace.name), panels, axes.map((name) => layout[name].title?.text)]);
}

async function draw(chart) {
  const { data, config } = chart.figure;
  const shown = { ...laidOut(chart), uirevision: structure(chart.figure) };
  // In a closed tab or expander it has no width; `resize` draws it when that opens.
  if (!shown.width) return;
  await window.Plotly.react(chart.graph, data, shown, { ...config, modeBarButtonsToAdd: [FULLSCREEN] });
  chart.graph.style.minHeight = `${shown.height}px`;
  if (measure(chart)) await draw(chart);
}

function resize(chart) {
  if (!window.Plotly) return;
  const { width, height } = laidOut(chart);
  const { layout } = chart.graph;
  if (!layout || (width && (width !== layout.width || height !== layout.height))) draw(chart);
}

function listen(chart) {
  const { graph } = chart;
  graph.on("plotly_click", ({ points }) => chart.pick(points));
  for (const [event, hand] of [["plotly_hover", true], ["plotly_unhover", false]]) {
    graph.on(event, ({ points }) => {
      const cursor = hand && chart.leads(points) ? "pointer" : "";
      for (const area of graph.querySelectorAll(".nsewdrag")) area.style.cursor = cursor;
    });
  }
  return true;
}

export default async function ({ data, parentElement, setTriggerValue }) {
  if (!charts.has(parentElement)) charts.set(parentElement, place(parentElement));
  const chart = charts.get(parentElement);
  chart.figure = { ...JSON.parse(data.figure), config: data.config };
  chart.graph.setAttribute("aria-label", data.alt);
  chart.graph.style.minHeight = `${laidOut(chart).height}px`; // its room, before Plotly is there
  await (library ??= fetched(data.plotly));
  await draw(chart);
  chart.leads = (points) => data.leads && points?.[0]?.customdata != null;
  chart.pick = (points) => chart.leads(points) && setTriggerValue("picked", points[0].customdata);
  chart.listens ??= listen(chart);
  return () => parentElement.isConnected || window.Plotly.purge(chart.graph);
}
