// Lays a figure out for the width there is: fewer panels beside each other, and room for as many lines of legend.
// A figure's layout.meta says what it was laid out for (nmerge_core/figures/panels.py).

const NARROW = 230; // pixels that a panel needs, with text of FONT pixels
const FONT = 13;
const BETWEEN_COLUMNS = 0.035; // of the figure's width
const BETWEEN_ROWS = 64; // pixels
const LABELS = 100; // pixels left of a panel, of the labels of its vertical axis
const CHARACTER = 7.2; // pixels, of a title

// What Plotly calls the axis of a panel, counted from 0.
const axisOf = (letter, index) => `${letter}axis${index ? index + 1 : ""}`;

// The layout with titles of panels that are too long for a single column ending at its right, over the labels left of it.
function titled(layout, width) {
  const { panels, columns } = layout.meta ?? {};
  if (!panels || columns > 1) return layout;
  const room = (width - LABELS) / CHARACTER;
  const moved = (title, index) =>
    index < panels && title.text.replace(/<[^>]*>/g, "").length > room ? { ...title, x: 1, xanchor: "right" } : title;
  return { ...layout, annotations: layout.annotations.map(moved) };
}

// The layout with its panels stacked for a width, and taller for it; or for a width and a height, as on paper.
function stacked(layout, width, height) {
  const { panels, columns, row, legend } = layout.meta ?? {};
  const scale = (layout.template?.layout?.font?.size ?? FONT) / FONT;
  const beside = Math.max(1, Math.min(columns, Math.floor(width / (NARROW * scale))));
  if (!panels || (beside === columns && !height)) return height ? { ...layout, width, height } : layout;
  const rows = Math.ceil(panels / beside);
  const each = height ? Math.max(1, height - legend) / rows : row;
  const down = Math.min(0.45 / rows, (BETWEEN_ROWS * scale) / (rows * each));
  const wide = (1 - BETWEEN_COLUMNS * (beside - 1)) / beside;
  const high = (1 - down * (rows - 1)) / rows;
  const under = layout[axisOf("x", panels - 1)].title;
  const left = layout.yaxis.title;
  const said = height ? [Math.floor((rows - 1) / 2)] : [...Array(rows).keys()]; // rows with a title on their left
  const next = { ...layout, annotations: [...layout.annotations], meta: { ...layout.meta, columns: beside } };
  for (let index = 0; index < panels; index++) {
    const [column, line] = [index % beside, Math.floor(index / beside)];
    const x = column * (wide + BETWEEN_COLUMNS);
    const y = (rows - 1 - line) * (high + down);
    const [xaxis, yaxis] = [axisOf("x", index), axisOf("y", index)];
    const below = { ...under, text: index + beside >= panels ? under.text : "" };
    next[xaxis] = { ...layout[xaxis], domain: [x, Math.min(1, x + wide)], title: below };
    const beyond = { ...left, text: column === 0 && said.includes(line) ? left.text : "" };
    const vertical = { domain: [y, Math.min(1, y + high)], title: beyond, showticklabels: column === 0 };
    next[yaxis] = { ...layout[yaxis], ...vertical };
    next.annotations[index] = { ...layout.annotations[index], x, y: Math.min(1, y + high) };
  }
  if (height) return { ...next, width, height };
  return { ...next, height: layout.height + (rows - Math.ceil(panels / columns)) * row };
}

// Pixels that the drawn legend is higher (or lower) than the layout has room for.
function legendExcess(graph) {
  const room = graph.layout.meta?.legend;
  const drawn = graph.querySelector(".legend .bg");
  return room && drawn ? Math.ceil(drawn.getBoundingClientRect().height) + 8 - room : 0;
}

function withLegend(layout, excess, grow) {
  const margin = { ...layout.margin, t: (layout.margin?.t ?? 44) + excess };
  return { ...layout, margin, ...(grow && layout.height ? { height: layout.height + excess } : {}) };
}
