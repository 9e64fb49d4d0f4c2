// One chart: a uPlot with a legend that switches lines, marks, a limit line, a reading at the
// cursor and a table of its data. It knows nothing of where data comes from.

import { colour, make, setAttribute, setText } from './dom.js';
import { clock, dateTime } from './format.js';
import { describe } from './lines.js';
import { drawMarks, marksNear } from './marks.js';

const HEIGHT = 196;
const AXIS_WIDTH = 50;
const TABLE_ROWS = 60;

// A scale that moves in steps, so that the axis stands still while values wander.
function niceTop(value) {
  if (!(value > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return unit * [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * unit >= value);
}

// A value between two gaps would draw no line at all: it gets a dot.
function isolated(u, index, show) {
  if (!show) return null;
  const values = u.data[index], found = [];
  for (let i = 0; i < values.length; i++) {
    if (values[i] != null && values[i - 1] == null && values[i + 1] == null) found.push(i);
  }
  return found;
}

export class Chart {
  constructor(spec, view) {
    this.spec = spec;
    this.view = view; // shared: marks, spans, limits, zoom(range), showMarks
    this.hidden = new Set();
    this.lines = [];
    this.shape = '';
    this.title = make('h2', {}, spec.title, make('small', {}, spec.unit));
    this.reading = make('span', { class: 'reading' });
    this.plotBox = make('div', { class: 'plot', role: 'img', 'aria-label': `${spec.title}. ${spec.empty}.` });
    this.note = make('p', { class: 'empty' }, spec.empty);
    this.tip = make('div', { class: 'tip', hidden: true });
    this.legend = make('div', { class: 'legend', role: 'group', 'aria-label': `Lines of ${spec.title}` });
    this.table = make('div', { class: 'table' });
    this.details = make('details', {}, make('summary', {}, 'Data'), this.table);
    this.details.addEventListener('toggle', () => this.fillTable());
    this.stage = make('div', { class: 'stage' }, this.plotBox, this.note, this.tip);
    this.root = make('section', { class: 'card chart', id: `chart-${spec.id}` },
      make('header', {}, this.title, this.reading), this.stage, this.legend, this.details);
  }

  setData(data) {
    this.data = data;
    this.lines = this.spec.lines(data);
    const shape = this.lines.map((line) => line.key).join('|');
    if (shape !== this.shape || !this.plot) {
      this.shape = shape;
      this.rebuild();
    } else {
      this.redraw();
    }
    this.note.hidden = this.lines.length > 0;
    setText(this.note, this.emptyWords(data));
    setAttribute(this.plotBox, 'aria-label', describe(this.spec, this.lines));
    if (this.details.open) this.fillTable();
  }

  // A range whose buckets are longer than the data is old has no whole bucket to show yet.
  emptyWords(data) {
    if (!data.t.length) return 'Not read yet';
    if (data.step_s > 10 && this.view.alive) return `No whole ${data.step_s >= 3600 ? `${data.step_s / 3600} h` : data.step_s >= 60 ? `${data.step_s / 60} min` : `${data.step_s} s`} bucket yet: choose a shorter range`;
    return this.spec.empty;
  }

  rebuild() {
    this.plot?.destroy();
    this.order = this.spec.stack ? this.lines.map((_, i) => this.lines.length - 1 - i) : this.lines.map((_, i) => i);
    this.plot = new uPlot(this.options(), this.columns(), this.plotBox);
    this.buildLegend();
    this.applyRange();
  }

  redraw() {
    this.plot.setData(this.columns(), false);
    this.applyRange();
    this.readAt(this.plot.cursor.idx);
  }

  applyRange() {
    const t = this.data.t;
    if (!t.length) return;
    const [min, max] = this.view.zoomed || [t[0], t.at(-1)];
    this.plot.setScale('x', { min, max: Math.max(max, min + 1) });
  }

  resize() {
    const width = this.plotBox.clientWidth;
    if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  // Columns for uPlot. A stack is summed from below and drawn from the top line down.
  columns() {
    const t = this.data.t;
    if (!this.lines.length) return [t.length ? t : [0, 1], t.length ? t.map(() => null) : [null, null]];
    if (!this.spec.stack) return [t, ...this.lines.map((line) => line.drawn || line.values)];
    const sum = t.map(() => null), stacked = [];
    this.lines.forEach((line) => {
      if (!this.hidden.has(line.key)) line.values.forEach((v, i) => { if (v !== null) sum[i] = (sum[i] || 0) + v; });
      stacked.push([...sum]);
    });
    return [t, ...this.order.map((i) => stacked[i])];
  }

  options() {
    const { spec } = this;
    const axis = { stroke: colour('--dim'), font: '11px system-ui, sans-serif', ticks: { show: false },
      grid: { stroke: colour('--grid'), width: 1 } };
    const series = this.order.map((i) => this.seriesOptions(this.lines[i]));
    return {
      width: this.plotBox.clientWidth || 400, height: HEIGHT, padding: [18, 10, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: 'redline', setSeries: false }, drag: { x: true, y: false, setScale: false },
        points: { size: 6, width: 1.5 }, y: false,
        bind: { dblclick: () => () => { this.view.zoom(null); return null; } } },
      scales: { x: { time: true }, y: { range: (u, min, max) => [0, this.topOf(max)] } },
      axes: [
        { ...axis, size: 26, gap: 6, space: 64, values: (u, ticks) => this.timeTicks(ticks) },
        { ...axis, size: AXIS_WIDTH, gap: 6, space: 34, values: (u, ticks) => ticks.map((v) => (v === null || !this.lines.length ? '' : spec.axis(v))) },
      ],
      series: [{}, ...(series.length ? series : [{ show: false }])],
      bands: spec.stack ? series.slice(1).map((_, i) => ({ series: [i + 1, i + 2] })) : undefined,
      hooks: {
        drawClear: [(u) => drawMarks(u, this.view, 'under')],
        draw: [(u) => this.drawLimit(u), (u) => drawMarks(u, this.view, 'over')],
        setCursor: [(u) => this.readAt(u.cursor.idx)],
        setSelect: [(u) => this.selected(u)],
      },
    };
  }

  seriesOptions(line) {
    const shade = colour(line.colour);
    const fill = this.spec.stack ? `color-mix(in srgb, ${shade} ${line.colour === '--idle' ? 30 : 62}%, transparent)`
      : line.fill ? `color-mix(in srgb, ${shade} 22%, transparent)`
      : line.soft ? `color-mix(in srgb, ${shade} 7%, transparent)` : undefined;
    return { label: line.label, stroke: shade, fill, width: this.spec.stack ? 1 : 1.5, dash: line.dash,
      spanGaps: false, points: { show: true, size: 4, fill: shade, filter: isolated }, show: this.spec.stack || !this.hidden.has(line.key) };
  }

  topOf(max) {
    if (this.spec.top) return this.spec.top;
    const limit = this.view.limits[this.spec.limit];
    // a limit that is near belongs into the picture, one that is far would flatten it
    return niceTop(Math.max((max || 0) * 1.05, limit && max > limit * 0.6 ? limit * 1.05 : 0));
  }

  // One format for a whole axis; days only where days differ.
  timeTicks(ticks) {
    const length = ticks.length > 1 ? ticks.at(-1) - ticks[0] : 0, step = ticks.length > 1 ? ticks[1] - ticks[0] : 60;
    return ticks.map((t) => {
      if (t === null || !this.data.t.length) return '';
      const d = new Date(t * 1000);
      if (length > 86400 * 1.5) return `${d.toLocaleDateString(undefined, { month: 'short', day: 'numeric' })}${step < 86400 ? ' ' + clock(t * 1e6, false) : ''}`;
      return clock(t * 1e6, step < 60);
    });
  }

  drawLimit(u) {
    const limit = this.view.limits[this.spec.limit];
    if (!this.lines.length || limit === undefined || limit === null || limit > u.scales.y.max) return;
    const y = Math.round(u.valToPos(limit, 'y', true)), c = u.ctx, ratio = devicePixelRatio || 1, above = y - u.bbox.top > 14 * ratio;
    c.save();
    c.strokeStyle = c.fillStyle = colour('--bad');
    c.globalAlpha = 0.75;
    c.lineWidth = ratio;
    c.setLineDash([2 * ratio, 3 * ratio]);
    c.beginPath();
    c.moveTo(u.bbox.left, y);
    c.lineTo(u.bbox.left + u.bbox.width, y);
    c.stroke();
    c.font = `${10 * ratio}px system-ui, sans-serif`;
    c.textAlign = 'left';
    c.textBaseline = above ? 'bottom' : 'top';
    c.fillText(`limit ${this.spec.format(limit)}`, u.bbox.left + 4 * ratio, y + (above ? -2 : 3) * ratio);
    c.restore();
  }

  selected(u) {
    const { left, width } = u.select;
    if (width > 6) this.view.zoom([u.posToVal(left, 'x'), u.posToVal(left + width, 'x')]);
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  }

  buildLegend() {
    this.entries = this.lines.map((line) => {
      const value = make('span', { class: 'figure' });
      const swatch = make('i', { 'data-dash': line.dash && line.dash.length ? true : null });
      swatch.style.setProperty('--swatch', `var(${line.colour})`);
      const button = make('button', { type: 'button', 'aria-pressed': String(!this.hidden.has(line.key)) }, swatch, line.label, value);
      button.addEventListener('click', () => this.toggle(line, button));
      return { button, value };
    });
    this.legend.replaceChildren(...this.entries.map((entry) => entry.button));
    this.readAt(null);
  }

  toggle(line, button) {
    if (!this.hidden.delete(line.key)) this.hidden.add(line.key);
    button.setAttribute('aria-pressed', String(!this.hidden.has(line.key)));
    if (this.spec.stack) this.redraw();
    else this.plot.setSeries(this.lines.indexOf(line) + 1, { show: !this.hidden.has(line.key) });
  }

  readAt(index) {
    if (!this.entries) return;
    const at = index === null || index === undefined ? null : index;
    this.lines.forEach((line, i) => {
      const value = at === null ? line.values.slice(-2).findLast((v) => v !== null) : line.values[at];
      setText(this.entries[i].value, value === null || value === undefined ? '–' : this.spec.format(value));
    });
    const t = at === null ? null : this.data.t[at];
    setText(this.reading, t === null || t === undefined ? '' : clock(t * 1e6));
    this.showTip(at === null ? null : this.plot.cursor.left);
  }

  showTip(left) {
    const own = this.plotBox.matches(':hover');
    const near = left === null || left < 0 || !own ? [] : marksNear(this.plot, this.view, left);
    this.tip.hidden = near.length === 0;
    if (!near.length) return;
    this.tip.replaceChildren(...near.slice(0, 4).map((mark) => make('p', { class: mark.kind },
      make('b', {}, `${mark.symbol} ${mark.title}`), make('span', {}, `${clock(mark.t_us)} ${mark.text}`))));
    const x = AXIS_WIDTH + left, width = this.stage.clientWidth;
    this.tip.style.left = `${Math.min(Math.max(0, x - 120), width - 250)}px`;
  }

  fillTable() {
    if (!this.details.open || !this.data) return;
    const from = Math.max(0, this.data.t.length - TABLE_ROWS);
    const head = make('tr', {}, make('th', { scope: 'col' }, 'Time'), ...this.lines.map((line) => make('th', { scope: 'col' }, line.label)));
    const rows = this.data.t.slice(from).map((t, i) => make('tr', {}, make('th', { scope: 'row' }, dateTime(t * 1e6)),
      ...this.lines.map((line) => make('td', {}, line.values[from + i] === null ? '–' : this.spec.format(line.values[from + i]))))).reverse();
    const caption = make('caption', {}, `${this.spec.title}, ${this.spec.unit}: the last ${rows.length} buckets of ${this.data.step_s} s`);
    this.table.replaceChildren(make('table', {}, caption, make('thead', {}, head), make('tbody', {}, ...rows)));
  }
}
