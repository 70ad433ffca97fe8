// A text as a strip of tokens of which one is chosen: by a click, or by arrow keys and Enter.

const KEYS = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1, Home: -Infinity, End: Infinity };

function move(strip, index) {
  const tokens = [...strip.querySelectorAll("[role=option]")];
  const target = tokens[Math.min(tokens.length - 1, Math.max(0, index))];
  for (const token of tokens) token.tabIndex = token === target ? 0 : -1;
  return target;
}

function choose(strip, index, tell) {
  const target = move(strip, index);
  for (const token of strip.querySelectorAll("[role=option]")) token.setAttribute("aria-selected", token === target);
  tell(index);
}

function option(piece, index, chosen) {
  const token = document.createElement("span");
  token.setAttribute("role", "option");
  token.setAttribute("aria-selected", index === chosen);
  token.setAttribute("aria-label", `${piece.text}, ${piece.told}`);
  token.tabIndex = index === chosen ? 0 : -1;
  token.title = piece.told;
  token.style.cssText = piece.style;
  token.textContent = piece.text;
  return token;
}

export default function ({ data, parentElement, setStateValue }) {
  const strip = parentElement.querySelector(".token-strip");
  const focused = strip.contains(document.activeElement);
  strip.setAttribute("aria-label", data.label);
  strip.replaceChildren(...data.pieces.flatMap((piece, index) => [piece.before, option(piece, index, data.chosen)]));
  const place = (event) => [...strip.querySelectorAll("[role=option]")].indexOf(event.target.closest("[role=option]"));
  const tell = (index) => setStateValue("token", index);
  strip.onclick = (event) => place(event) >= 0 && choose(strip, place(event), tell);
  strip.onkeydown = (event) => {
    const index = place(event);
    if (index < 0) return;
    if (event.key in KEYS) move(strip, index + KEYS[event.key]).focus();
    else if (event.key === "Enter" || event.key === " ") choose(strip, index, tell);
    else return;
    event.preventDefault();
  };
  if (focused) strip.querySelector("[aria-selected=true]")?.focus();
}
