// The page: state, what is fetched when, and what is painted after. One animation frame paints all
// that changed, and only while the page is seen.

import { Chart } from './chart.js';
import { byId, forgetColours, make, setAttribute, setText } from './dom.js';
import { clock, span } from './format.js';
import { emptyHistory, merge, mergeSpark } from './history.js';
import { CHARTS } from './lines.js';
import { paintEngines, paintFeed, paintTenants, paintVerdict } from './lists.js';
import { named } from './marks.js';
import { listen } from './stream.js';
import { buildTiles, noteAge, paintSparks, paintTiles } from './tiles.js';

const RANGES = [[300, '5 m'], [900, '15 m'], [3600, '1 h'], [21600, '6 h'], [86400, '24 h'], [604800, '7 d']];
const DEFAULT_RANGE_S = 900;
const DAY_S = 86400;
const LOST_AFTER_MS = 1500; // a stream that is cut and back at once is not worth a word
const LEAVE_AFTER_MS = 60000;
const SILENT_AFTER_MS = 12000; // a server that hangs keeps its connections open

const state = {
  range_s: rangeFromUrl(), paused: false, connected: true, lost_ms: null, heard_ms: null, skew_us: 0,
  history: emptyHistory(), spark: null, now: { tiles: null, tenants: [], engines: [] },
  events: { marks: [], alerts: [], actions: [] }, older: [], status: null, fetching: null, fetched_ms: 0,
  leaving: null, left: false,
};
const view = { marks: [], spans: [], limits: {}, zoomed: null, showMarks: true, highlight: null, alive: false, zoom };
const charts = CHARTS.map((spec) => new Chart(spec, view));
const dirty = new Set();
let asked = false;

const now_us = () => Date.now() * 1000 + state.skew_us;

function rangeFromUrl() {
  const wanted = Number(new URLSearchParams(location.search).get('range'));
  return RANGES.some(([seconds]) => seconds === wanted) ? wanted : DEFAULT_RANGE_S;
}

// --- painting ------------------------------------------------------------------------------

function want(...names) {
  names.forEach((name) => dirty.add(name));
  if (asked || document.hidden) return;
  asked = true;
  requestAnimationFrame(paint);
}

const PAINTERS = {
  tiles: () => paintTiles(state.now.tiles, state.spark),
  charts: () => charts.forEach((chart) => chart.setData(state.history)),
  marks: () => charts.forEach((chart) => chart.plot?.redraw(false)),
  feed: () => paintFeed(state.events, now_us(), highlight),
  lists: () => { paintTenants(state.now.tenants); paintEngines(state.now.engines, now_us(), view.limits.kv_cache_usage); },
  verdict: paintTop,
};

function paint() {
  asked = false;
  for (const name of [...dirty]) {
    dirty.delete(name);
    PAINTERS[name]();
  }
}

function paintTop() {
  const { status } = state;
  const lost = isLost();
  let verdict = status ? status.verdict : { level: 'none', text: 'Connecting', detail: 'Reading the first figures.' };
  if (lost) {
    const old = status?.read_us ? `Figures are ${span(now_us() - status.read_us)} old.` : '';
    verdict = { level: 'none', text: 'Reconnecting to Redline', detail: `The page's server does not answer; trying again. ${old}` };
  }
  document.body.classList.toggle('stale', lost || Boolean(status && status.store !== 'ok'));
  paintVerdict(verdict, state.paused ? 'paused' : status ? clock(status.now_us) : '');
  const mark = { ok: '', warn: '▲ ', bad: '▲ ', none: '… ' }[verdict.level];
  const title = `${mark}${verdict.text} – Redline`;
  if (document.title !== title) document.title = title;
}

function isLost() {
  const now = performance.now();
  return (!state.connected && now - state.lost_ms > LOST_AFTER_MS) || (state.heard_ms !== null && now - state.heard_ms > SILENT_AFTER_MS);
}

function highlight(ref) {
  view.highlight = ref;
  want('marks');
}

// --- what the server says --------------------------------------------------------------------

function takeNow(now) {
  if (!now.tiles) return;
  state.now = now;
  view.limits = Object.fromEntries(Object.entries(now.tiles).map(([name, tile]) => [name, tile.limit]));
  view.alive = now.tiles.instances.seen > 0 || now.tiles.requests_per_s.value !== null;
  noteAge(now.tiles);
  want('tiles', 'lists');
}

function takeStatus(status) {
  state.skew_us = status.now_us - Date.now() * 1000;
  state.status = status;
  want('verdict');
  const end_ms = (state.history.end_s + state.history.step_s + 4) * 1000;
  const missing = !state.history.t.length || (state.history.step_s > 10 && now_us() / 1000 > end_ms);
  if (status.store === 'ok' && missing && performance.now() - state.fetched_ms > 5000) fetchHistory();
}

function takeEvents(events) {
  state.events = events;
  const known = new Map([...state.older, ...events.marks].map((mark) => [`${mark.kind}${mark.t_us}${mark.name}`, mark]));
  view.marks = [...known.values()].map(named);
  view.spans = events.alerts.map((alert) => ({ start_us: alert.started_us, end_us: alert.ended_us, severity: alert.severity }));
  want('feed', 'marks');
}

function takeSeries(live) {
  state.spark = mergeSpark(state.spark, live.spark);
  want('tiles');
  if (state.history.step_s !== live.step_s) return;
  if (merge(state.history, live, state.range_s)) want('charts');
  else if (performance.now() - state.fetched_ms > 5000) fetchHistory();
}

async function get(path) {
  const answer = await fetch(path);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error || body.detail || `answer ${answer.status}`);
  return body;
}

async function fetchHistory() {
  const range = state.range_s;
  if (state.fetching === range) return;
  state.fetching = range;
  state.fetched_ms = performance.now();
  try {
    const [history, older] = await Promise.all([
      get(`/api/series?last=${range}`), range > DAY_S ? get(`/api/marks?last=${range}`) : { marks: [] }]);
    if (range !== state.range_s) return;
    state.history = history;
    state.older = older.marks;
    takeEvents(state.events);
    want('charts');
  } catch (error) {
    console.info('history not read:', error.message);
  } finally {
    if (state.fetching === range) state.fetching = null;
  }
}

async function fetchOverview() {
  try {
    const overview = await get('/api/overview');
    if (overview.spark) state.spark = overview.spark;
    takeNow(overview);
    takeStatus(overview.status);
  } catch (error) {
    console.info('overview not read:', error.message);
  }
}

const unlessPaused = (handle) => (body) => {
  state.heard_ms = performance.now();
  if (!state.paused) handle(body);
};

function onStream(how) {
  if (how === 'open') {
    const back = !state.connected;
    state.connected = true;
    if (back) fetchHistory();
  } else if (state.connected) {
    state.connected = false;
    state.lost_ms = performance.now();
  }
  want('verdict');
}

// A tab that nobody sees lets its connection go after a while, and catches up when it is seen.
function onVisibility() {
  clearTimeout(state.leaving);
  if (document.hidden) {
    state.leaving = setTimeout(() => {
      stream.close();
      state.heard_ms = null;
      state.left = true;
    }, LEAVE_AFTER_MS);
    return;
  }
  if (state.left) {
    state.left = false;
    stream.open();
    fetchOverview();
    fetchHistory();
  }
  want();
}

// --- what people do -----------------------------------------------------------------------------

function setRange(seconds) {
  state.range_s = seconds;
  zoom(null);
  const url = new URL(location.href);
  url.searchParams.set('range', seconds);
  history.replaceState(null, '', url);
  for (const button of byId('ranges').children) setAttribute(button, 'aria-pressed', String(Number(button.dataset.s) === seconds));
  fetchHistory();
}

function zoom(range) {
  view.zoomed = range;
  byId('zoom-reset').hidden = !range;
  charts.forEach((chart) => chart.plot && chart.data && chart.applyRange());
}

function setPaused(paused) {
  state.paused = paused;
  setAttribute(byId('live'), 'aria-pressed', String(!paused));
  setText(byId('live').lastElementChild, paused ? 'Paused' : 'Live');
  if (!paused) {
    fetchOverview();
    fetchHistory();
  }
  want('verdict');
}

function setMarks(shown) {
  view.showMarks = shown;
  setAttribute(byId('marks'), 'aria-pressed', String(shown));
  want('marks');
}

function switchTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
  try {
    localStorage.setItem('redline-theme', root.dataset.theme);
  } catch (error) {
    console.info('theme not remembered:', error.message);
  }
  recolour();
}

function recolour() {
  forgetColours();
  charts.forEach((chart) => chart.data && chart.rebuild());
  paintSparks(state.now.tiles, state.spark);
}

const KEYS = {
  ' ': () => setPaused(!state.paused), m: () => setMarks(!view.showMarks), z: () => zoom(null), t: switchTheme,
  '?': () => (byId('keys').open ? byId('keys').close() : byId('keys').showModal()),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === ' ' && event.target.closest('button, summary, a')) return;
  const range = RANGES[Number(event.key) - 1];
  if (range) setRange(range[0]);
  else if (KEYS[event.key]) {
    event.preventDefault();
    KEYS[event.key]();
  }
}

// --- start ----------------------------------------------------------------------------------------

byId('ranges').append(...RANGES.map(([seconds, label]) => {
  const button = make('button', { type: 'button', 'data-s': seconds, 'aria-pressed': String(seconds === state.range_s) }, label);
  button.addEventListener('click', () => setRange(seconds));
  return button;
}));
buildTiles();
byId('charts').append(...charts.map((chart) => chart.root));
charts.forEach((chart) => chart.setData(state.history));
byId('live').addEventListener('click', () => setPaused(!state.paused));
byId('marks').addEventListener('click', () => setMarks(!view.showMarks));
byId('zoom-reset').addEventListener('click', () => zoom(null));
byId('theme').addEventListener('click', switchTheme);
byId('help').addEventListener('click', KEYS['?']);
document.addEventListener('keydown', onKey);
document.addEventListener('visibilitychange', onVisibility);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', recolour);
new ResizeObserver(() => requestAnimationFrame(() => {
  charts.forEach((chart) => chart.resize());
  paintSparks(state.now.tiles, state.spark);
})).observe(byId('main'));
setInterval(() => { if (isLost()) want('verdict'); }, 1000);
setInterval(() => { if (!state.paused && state.events.alerts.some((alert) => alert.ended_us === null)) want('feed'); }, 5000);

fetchHistory();
fetchOverview();
const stream = listen({
  tiles: unlessPaused(takeNow), series: unlessPaused(takeSeries), marks: unlessPaused(takeEvents), status: unlessPaused(takeStatus),
}, onStream);
window.redline = { state, view, charts }; // for the console, and for tests
