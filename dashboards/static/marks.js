// Deploys, alerts and actions as vertical lines with a symbol, and open alerts as a pale band.
// Colour, shape and the words of the list say the same, so none of them is needed alone.

import { colour } from './dom.js';
import { words } from './format.js';

export const SYMBOL = { deploy: '◆', firing: '▲', resolved: '✓', action: '↺' };
const SHADE = { deploy: '--mark-deploy', firing: '--bad', resolved: '--ok', action: '--mark-action' };
const NEAR_PX = 7;
const SYMBOL_PX = 11;

export function named(mark) {
  const title = {
    deploy: () => `${mark.name}`,
    firing: () => `${words(mark.name)} fires`,
    resolved: () => `${words(mark.name)} resolved`,
    action: () => `${words(mark.name)} of ${mark.target}`,
  }[mark.kind];
  return { ...mark, symbol: SYMBOL[mark.kind] || '·', title: title ? title() : mark.name };
}

export function drawMarks(u, view, layer) {
  if (!view.showMarks) return;
  const { left, top, width, height } = u.bbox, c = u.ctx, ratio = devicePixelRatio || 1;
  const { min, max } = u.scales.x;
  c.save();
  if (layer === 'under') {
    for (const span of view.spans) {
      const from = Math.max(span.start_us / 1e6, min), to = Math.min((span.end_us ?? Infinity) / 1e6, max);
      if (to <= from) continue;
      const x0 = u.valToPos(from, 'x', true), x1 = u.valToPos(to, 'x', true);
      c.globalAlpha = 0.07;
      c.fillStyle = colour(span.severity === 'page' ? '--bad' : '--warn');
      c.fillRect(x0, top, Math.max(x1 - x0, ratio), height);
    }
  } else {
    const shown = view.marks.filter((mark) => mark.t_us / 1e6 >= min && mark.t_us / 1e6 <= max);
    const lines = shown.map((mark) => Math.round(u.valToPos(mark.t_us / 1e6, 'x', true)));
    const symbols = sideBySide(lines, SYMBOL_PX * ratio, left + width + 4 * ratio);
    shown.forEach((mark, i) => {
      const x = lines[i];
      c.strokeStyle = c.fillStyle = colour(mark.kind === 'firing' && mark.target !== 'page' ? '--warn' : SHADE[mark.kind]);
      c.lineWidth = ratio;
      c.globalAlpha = mark.ref && mark.ref === view.highlight ? 1 : 0.65;
      c.setLineDash([3 * ratio, 3 * ratio]);
      c.beginPath();
      c.moveTo(x, top - 2 * ratio);
      c.lineTo(x, top + height);
      c.stroke();
      c.setLineDash([]);
      c.globalAlpha = 1;
      if (symbols[i] >= left - 4 * ratio) drawSymbol(c, mark.kind, symbols[i], top - 9 * ratio, 4.5 * ratio);
    });
  }
  c.restore();
}

// Symbols of lines that are close stand beside each other, and never outside the picture.
function sideBySide(lines, size, right) {
  const places = [];
  lines.forEach((x, i) => places.push(i ? Math.max(x, places[i - 1] + size) : x));
  for (let i = places.length - 1, edge = right; i >= 0; i--, edge = places[i + 1] - size) places[i] = Math.min(places[i], edge);
  return places;
}

// Paths, not characters: fonts differ, and a missing glyph would be a box.
function drawSymbol(c, kind, x, y, r) {
  c.beginPath();
  if (kind === 'deploy') {
    c.moveTo(x, y - r); c.lineTo(x + r, y); c.lineTo(x, y + r); c.lineTo(x - r, y);
    c.fill();
  } else if (kind === 'firing') {
    c.moveTo(x, y - r); c.lineTo(x + r, y + r * 0.8); c.lineTo(x - r, y + r * 0.8);
    c.fill();
  } else if (kind === 'resolved') {
    c.lineWidth = r * 0.42;
    c.moveTo(x - r * 0.9, y); c.lineTo(x - r * 0.2, y + r * 0.7); c.lineTo(x + r * 0.95, y - r * 0.75);
    c.stroke();
  } else {
    c.lineWidth = r * 0.42;
    c.arc(x, y, r * 0.8, -0.3, Math.PI * 1.45);
    c.stroke();
    c.beginPath();
    c.moveTo(x + r * 0.15, y - r * 1.45); c.lineTo(x + r * 0.15, y - r * 0.15); c.lineTo(x - r * 0.85, y - r * 0.8);
    c.fill();
  }
}

export function marksNear(u, view, left) {
  if (!view.showMarks) return [];
  return view.marks.filter((mark) => Math.abs(u.valToPos(mark.t_us / 1e6, 'x') - left) <= NEAR_PX);
}
