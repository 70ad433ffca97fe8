// A curve over the layers that one draws: drag a point, or focus it and use the arrow keys. What is drawn is told when
// the pointer is let go, or a key was pressed.

const WIDTH = 420, HEIGHT = 150, LEFT = 36, BOTTOM = 22, TOP = 10, RIGHT = 10;
const NAMESPACE = "http://www.w3.org/2000/svg";
const drawn = new WeakMap(); // a component's element → { values, told }: what it shows, and what it was last given

function element(name, attributes, text) {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function scale({ low, high }, count) {
  return {
    x: (index) => LEFT + (index * (WIDTH - LEFT - RIGHT)) / Math.max(1, count - 1),
    y: (value) => TOP + ((high - value) * (HEIGHT - TOP - BOTTOM)) / (high - low),
    value: (y) => high - ((y - TOP) * (high - low)) / (HEIGHT - TOP - BOTTOM),
  };
}

function fitted({ low, high, step }, value) {
  const steps = Math.round((value - low) / step);
  return Number(Math.min(high, Math.max(low, low + steps * step)).toFixed(6));
}

export default function ({ data, parentElement, setTriggerValue }) {
  const state = drawn.get(parentElement) ?? {};
  drawn.set(parentElement, state);
  const told = JSON.stringify(data.values);
  if (state.told !== told) Object.assign(state, { told, values: [...data.values] });
  const { x, y, value } = scale(data, state.values.length);
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "curve", role: "group", "aria-label": data.title });
  for (const tick of [data.low, (data.low + data.high) / 2, data.high]) {
    svg.append(element("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick), class: "grid" }));
    svg.append(element("text", { x: LEFT - 6, y: y(tick) + 3, "text-anchor": "end" }, Number(tick.toFixed(3))));
  }
  const line = element("polyline", { class: "line" });
  svg.append(line);
  svg.append(element("text", { x: LEFT, y: HEIGHT - 4 }, "first layer"));
  svg.append(element("text", { x: WIDTH - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, "last layer"));

  const points = state.values.map((_, index) => {
    const point = element("circle", { r: state.values.length > 24 ? 4 : 6, tabindex: 0, role: "slider", class: "point" });
    point.setAttribute("aria-label", data.names[index]);
    point.setAttribute("aria-valuemin", data.low);
    point.setAttribute("aria-valuemax", data.high);
    point.append(element("title", {}));
    svg.append(point);
    return point;
  });

  function show() {
    line.setAttribute("points", state.values.map((each, index) => `${x(index)},${y(each)}`).join(" "));
    points.forEach((point, index) => {
      point.setAttribute("cx", x(index));
      point.setAttribute("cy", y(state.values[index]));
      point.setAttribute("aria-valuenow", state.values[index]);
      point.firstChild.textContent = `${data.names[index]}: ${state.values[index]}`;
    });
  }

  function tell() {
    state.told = JSON.stringify(state.values);
    setTriggerValue("drawn", [...state.values]);
  }

  function move(index, wanted) {
    state.values[index] = fitted(data, wanted);
    show();
  }

  points.forEach((point, index) => {
    point.onkeydown = (event) => {
      const by = { ArrowUp: 1, ArrowDown: -1, PageUp: 5, PageDown: -5 }[event.key];
      const to = { ArrowLeft: index - 1, ArrowRight: index + 1 }[event.key];
      if (by === undefined && to === undefined) return;
      event.preventDefault();
      if (by === undefined) return points[to]?.focus();
      move(index, state.values[index] + by * data.step);
      tell();
    };
    point.onpointerdown = (event) => {
      point.setPointerCapture(event.pointerId);
      point.focus();
      point.onpointermove = (moved) => {
        const { top, height } = svg.getBoundingClientRect();
        move(index, value(((moved.clientY - top) * HEIGHT) / height));
      };
      point.onpointerup = () => {
        point.onpointermove = point.onpointerup = null;
        tell();
      };
    };
  });
  show();
  const focused = [...parentElement.querySelectorAll(".point")].indexOf(document.activeElement);
  parentElement.querySelector("svg")?.remove();
  parentElement.append(svg);
  if (focused >= 0) points[focused]?.focus();
}
