// Small makers of elements. Text goes in as text nodes only: what a server sends is never markup.

export const byId = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'class') element.className = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

const palette = {};

// Theme colours for the canvas, looked up once a theme.
export function colour(name) {
  palette[name] ??= getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return palette[name];
}

export function forgetColours() {
  for (const name of Object.keys(palette)) delete palette[name];
}
