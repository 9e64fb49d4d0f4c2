// The row of single figures. Each says its unit, its window and what it rests on; without data it
// says so in words, because nothing is not zero.

import { byId, colour, make, setAttribute, setText } from './dom.js';
import { age, count, dollars, milliseconds, nanoDollars, percent, rate } from './format.js';

const window_ = (tile) => (tile.window_s >= 120 ? `${tile.window_s / 60} min` : `${tile.window_s} s`);
const requests = (n) => `${count(n)} request${n === 1 ? '' : 's'}`;
const limitText = (tile, format) => (tile.limit === null ? '' : ` Limit: ${format(tile.limit)}.`);

const TILES = [
  { id: 'requests_per_s', label: 'Requests', value: (t) => [rate(t.value), '/s'], spark: 'requests_per_s',
    sub: (t) => `${window_(t)} · ${requests(t.samples)}`, empty: 'no requests',
    title: (t) => `Finished requests per second over the last ${window_(t)}: ${requests(t.samples || 0)}.` },
  { id: 'error_ratio', label: 'Errors', value: (t) => [percent(t.value), '%'], spark: 'error_ratio',
    sub: (t) => `${window_(t)} · ${count(t.samples)} of ${count(t.requests)}`, empty: 'no requests',
    title: (t) => `Share of requests that the server failed (5xx or an engine error) in ${window_(t)}.` + limitText(t, (v) => `${percent(v)} %`) },
  { id: 'p99_latency_ms', label: 'Latency p99', value: (t) => milliseconds(t.value), spark: 'p99_latency_ms',
    sub: (t) => `${window_(t)} · p50 ${milliseconds(t.p50_latency_ms).join(' ')}`, empty: 'no requests',
    title: (t) => `End to end, 99 % of ${requests(t.samples || 0)} in ${window_(t)} were faster; merged sketches, within 1 %.` + limitText(t, (v) => milliseconds(v).join(' ')) },
  { id: 'p95_ttft_ms', label: 'First token p95', value: (t) => milliseconds(t.value), spark: 'p95_ttft_ms',
    sub: (t) => `${window_(t)} · ${requests(t.samples)}`, empty: (t) => (t.samples ? 'none streamed' : 'no requests'),
    title: (t) => `Time to first token (TTFT) of streamed requests; 95 % were faster, in ${window_(t)}.` + limitText(t, (v) => milliseconds(v).join(' ')) },
  { id: 'usd_per_million_output_tokens', label: 'Per 1M output tokens', value: (t) => [dollars(t.value), ''], spark: 'usd_per_million_output_tokens',
    sub: (t) => `${window_(t)} · ${t.with_idle === null ? `${count(t.samples)} tokens` : `${dollars(t.with_idle)} with idle`}`, empty: 'no tokens yet',
    title: (t) => `GPU cost allocated to requests over ${count(t.samples || 0)} output tokens in ${window_(t)}; idle time comes on top.` },
  { id: 'spend_today_nusd', label: 'Spend today', value: (t) => [nanoDollars(t.value), ''], spark: 'usd_per_hour',
    sub: (t) => t.note ? 'no price for some engines' : `${t.usd_per_hour === null ? '–' : dollars(t.usd_per_hour)}/h · ${t.idle_share === null ? '–' : percent(t.idle_share)} % idle`, empty: (t) => (t.note ? 'no price set' : 'no bill yet'),
    title: (t) => `The whole GPU bill since the provider's midnight, idle included: ${count(t.samples || 0)} windows of 10 s. The line is $ per hour.` + (t.note ? ` Incomplete: ${t.note}.` : '') },
  { id: 'kv_cache_usage', label: 'KV cache', value: (t) => [percent(t.value), '%'], spark: 'kv_cache_usage',
    sub: (t) => `${t.note} · ${t.waiting === null ? '–' : count(t.waiting)} waiting`, empty: 'no engine seen',
    title: (t) => `The fullest of ${t.samples} engines (${t.note || 'none'}), last sample; ${t.running === null ? '–' : count(t.running)} requests run, ${t.waiting === null ? '–' : count(t.waiting)} wait.` + limitText(t, (v) => `${percent(v)} %`) },
  { id: 'data_age_ms', label: 'Data age', value: (t) => age(t.value), spark: 'data_age_ms',
    sub: (t) => (t.requests_age_ms === null ? 'engines only' : `last request ${age(Math.max(0, t.requests_age_ms)).join(' ')}`), empty: 'no data yet',
    title: () => 'Time since the newest stored request or engine sample.' },
];

// "Yet" only while nothing at all has arrived: later, none in the window is a fact of its own.
function emptyWords(spec, tile, tiles) {
  const text = typeof spec.empty === 'string' ? spec.empty : spec.empty(tile);
  return tiles.data_age_ms.value === null && text === 'no requests' ? 'no requests yet' : text;
}

const SIGN = { warn: '▲ near', bad: '▲ over', ok: '', none: '' };
const AGE_POINTS = 120;
const SPARK_POINTS_MIN = 30; // a young system's line starts where its data does, five minutes at least
const parts = new Map();
const ages = [];

export function buildTiles() {
  byId('tiles').replaceChildren(...TILES.map((spec) => {
    const value = make('p', { class: 'value' }, make('span', {}, '–'), make('small'));
    const part = {
      tile: make('article', { class: 'tile', id: `tile-${spec.id}`, 'data-level': 'none', 'data-empty': true }),
      number: value.firstChild, unit: value.lastChild,
      sign: make('span', { class: 'sign' }), sub: make('p', { class: 'sub' }, ' '),
      spark: make('canvas', { 'aria-hidden': 'true' }),
    };
    part.tile.append(make('h2', {}, spec.label, part.sign), value, part.spark, part.sub);
    parts.set(spec.id, part);
    return part.tile;
  }));
}

export function paintTiles(tiles, spark) {
  if (!tiles) return;
  for (const spec of TILES) {
    const tile = tiles[spec.id], part = parts.get(spec.id);
    const empty = tile.value === null;
    setAttribute(part.tile, 'data-level', tile.level);
    part.tile.toggleAttribute('data-empty', empty);
    const [number, unit] = empty ? [emptyWords(spec, tile, tiles), ''] : spec.value(tile);
    setText(part.number, number);
    setText(part.unit, unit);
    setText(part.sign, SIGN[tile.level]);
    setText(part.sub, empty ? (tile.window_s ? `in the last ${window_(tile)}` : ' ') : spec.sub(tile));
    setAttribute(part.tile, 'title', spec.title(tile));
  }
  paintSparks(tiles, spark);
}

export function noteAge(tiles) {
  ages.push(tiles.data_age_ms.value);
  if (ages.length > AGE_POINTS) ages.shift();
}

export function paintSparks(tiles, spark) {
  for (const spec of TILES) {
    const values = spec.id === 'data_age_ms' ? ages : (spark && spark[spec.spark]) || [];
    const level = tiles ? tiles[spec.id].level : 'none';
    drawSpark(parts.get(spec.id).spark, values, level);
  }
}

function drawSpark(canvas, all, level) {
  const first = all.findIndex((v) => v !== null && v !== undefined);
  const values = all.slice(Math.max(0, Math.min(first, all.length - SPARK_POINTS_MIN)));
  const width = canvas.clientWidth, height = canvas.clientHeight, ratio = devicePixelRatio || 1;
  if (!width) return;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  const context = canvas.getContext('2d');
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const known = values.filter((v) => v !== null && v !== undefined);
  if (known.length < 2) return;
  const top = Math.max(...known) * 1.1 || 1, bottom = Math.min(...known, top * 0.6);
  const scale = (height - 5) / (top - bottom || 1), step = width / (values.length - 1);
  const line = colour(level === 'bad' ? '--bad' : level === 'warn' ? '--warn' : '--spark');
  const runs = [];
  values.forEach((v, i) => {
    if (v === null || v === undefined) return;
    const point = [i * step, height - 2 - (v - bottom) * scale];
    if (i && values[i - 1] !== null && values[i - 1] !== undefined && runs.length) runs.at(-1).push(point);
    else runs.push([point]);
  });
  context.lineWidth = 1.25;
  context.lineJoin = 'round';
  context.strokeStyle = context.fillStyle = line;
  for (const run of runs) {
    context.beginPath();
    run.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (run.length === 1) context.lineTo(run[0][0] + 1, run[0][1]);
    context.globalAlpha = 1;
    context.stroke();
    context.lineTo(run.at(-1)[0], height);
    context.lineTo(run[0][0], height);
    context.globalAlpha = 0.09;
    context.fill();
  }
  context.globalAlpha = 1;
}
