// Small helpers that make elements.

/** An element with attributes and children. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** A short line that shows a candidate's colour and dash. */
export function lineSample() {
  const namespace = "http://www.w3.org/2000/svg";
  const sample = document.createElementNS(namespace, "svg");
  sample.setAttribute("viewBox", "0 0 40 10");
  sample.setAttribute("class", "line-sample");
  sample.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(namespace, "line");
  for (const [name, value] of Object.entries({ x1: 1, x2: 39, y1: 5, y2: 5, "stroke-width": 3 })) {
    line.setAttribute(name, value);
  }
  sample.append(line);
  sample.show = (colour, dash) => {
    line.setAttribute("stroke", colour);
    line.setAttribute("stroke-dasharray", dash.join(" "));
  };
  return sample;
}
