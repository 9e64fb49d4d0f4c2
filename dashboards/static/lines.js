// Which lines each chart has, from the columns that the server sends. No drawing here.

import { count, dollars, milliseconds, percent, rate } from './format.js';

const HUES = 8;
const seen = { version: new Map(), tenant: new Map(), instance: new Map() };

// A name keeps its colour for as long as the page is open, whatever comes and goes.
function hue(kind, name) {
  if (!seen[kind].has(name)) seen[kind].set(name, `--s${(seen[kind].size % HUES) + 1}`);
  return seen[kind].get(name);
}

function versionLabel(line, all) {
  const models = new Set(all.map((other) => other.model));
  return (models.size > 1 ? `${line.model} ` : '') + (line.version || line.model);
}

const last = (values) => values.slice(-2).findLast((v) => v !== null);

// An hour without errors is no line along the bottom; the legend and the table still say 0.
function withoutFlatZeros(values) {
  const quiet = (v) => v === 0 || v === null || v === undefined;
  return values.map((v, i) => (v === 0 && quiet(values[i - 1]) && quiet(values[i + 1]) ? null : v));
}

function traffic(data) {
  const found = [];
  for (const line of data.traffic) {
    const name = versionLabel(line, data.traffic);
    found.push({ key: `r ${line.model} ${line.version}`, label: name, values: line.requests_per_s,
      colour: hue('version', `${line.model} ${line.version}`), soft: true });
  }
  for (const line of data.traffic) {
    if (!line.errors_per_s.some((v) => v > 0)) continue;
    found.push({ key: `e ${line.model} ${line.version}`, label: `${versionLabel(line, data.traffic)} errors`,
      values: line.errors_per_s, drawn: withoutFlatZeros(line.errors_per_s), colour: '--bad', fill: true, dash: found.length % 2 ? [] : [5, 3] });
  }
  return found;
}

function latency(data) {
  return data.traffic.flatMap((line) => {
    const name = versionLabel(line, data.traffic), shade = hue('version', `${line.model} ${line.version}`);
    return [
      { key: `p ${line.model} ${line.version}`, label: `${name} p99`, values: line.p99_latency_ms, colour: shade },
      { key: `t ${line.model} ${line.version}`, label: `${name} TTFT p95`, values: line.p95_ttft_ms, colour: shade, dash: [3, 3] },
    ].filter((one) => one.values.some((v) => v !== null));
  });
}

const ORDER = { tenant: 0, overhead: 1, idle: 2 };

function spend(data) {
  const total = (line) => line.usd_per_hour.reduce((sum, v) => sum + (v || 0), 0);
  const order = (line) => ORDER[line.line] + (line.owner === '__other__' ? 0.5 : 0);
  return [...data.spend]
    .sort((a, b) => order(a) - order(b) || total(b) - total(a))
    .map((line) => ({
      key: `${line.line} ${line.owner}`,
      label: line.line === 'tenant' ? (line.owner === '__other__' ? 'other tenants' : line.owner || 'no tenant') : line.line,
      values: line.usd_per_hour,
      colour: line.line === 'idle' ? '--idle' : line.line === 'overhead' ? '--overhead'
        : line.owner === '__other__' ? '--rest' : hue('tenant', line.owner),
    }));
}

function kv(data) {
  return data.kv.map((line) => ({ key: line.instance, label: line.instance, values: line.kv_cache_usage,
    colour: hue('instance', line.instance) }));
}

export const CHARTS = [
  { id: 'traffic', title: 'Requests and errors', unit: 'per second', lines: traffic,
    format: (v) => rate(v), axis: (v) => (v >= 1000 ? count(v) : String(+v.toPrecision(3))), empty: 'No requests in this range' },
  { id: 'latency', title: 'Latency p99 and first token p95', unit: 'end to end, by version', lines: latency, limit: 'p99_latency_ms',
    format: (v) => milliseconds(v).join(' '), axis: (v) => (v === 0 ? '0' : v < 1000 ? `${v} ms` : `${+(v / 1000).toPrecision(3)} s`), empty: 'No requests in this range' },
  { id: 'spend', title: 'Spend by tenant, and idle', unit: '$ per hour', lines: spend, stack: true,
    format: (v) => dollars(v), axis: (v) => (v >= 10 || v === 0 ? `$${+v.toPrecision(3)}` : `$${+v.toPrecision(2)}`), empty: 'No bill in this range' },
  { id: 'kv', title: 'KV cache by engine', unit: 'share in use', lines: kv, limit: 'kv_cache_usage', top: 1,
    format: (v) => `${percent(v)} %`, axis: (v) => `${Math.round(v * 100)} %`, empty: 'No engine seen in this range' },
];

export function describe(chart, lines) {
  const named = lines.slice(0, 6).map((line) => {
    const value = last(line.values);
    return `${line.label} ${value === undefined ? 'no data' : chart.format(value)}`;
  });
  return `${chart.title}, ${chart.unit}. ` + (named.length ? `Latest: ${named.join(', ')}.` : `${chart.empty}.`);
}
