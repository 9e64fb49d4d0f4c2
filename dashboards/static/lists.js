// The lists beside the charts: what happened, who spends, how the engines are.

import { byId, make, setText } from './dom.js';
import { age, clock, count, dateTime, nanoDollars, percent, span, words } from './format.js';
import { SYMBOL } from './marks.js';

const FEED_MAX = 60;
const DAY_US = 86400e6;
const RANK = { [SYMBOL.firing]: 0, [SYMBOL.action]: 1, [SYMBOL.deploy]: 2 }; // of one instant: cause before effect
function alertItem(alert, now_us) {
  const open = alert.ended_us === null;
  const on = ['instance', 'version', 'tenant', 'region'].map((name) => alert.labels[name]).filter(Boolean)[0];
  const state = open ? `${alert.state} for ${span(now_us - alert.started_us)}` : `resolved after ${span(alert.ended_us - alert.started_us)}`;
  return { t_us: alert.started_us, kind: open ? 'firing' : 'resolved', symbol: SYMBOL.firing, ref: alert.incident_id,
    title: words(alert.rule) + (on ? ` on ${on}` : ''), tags: [alert.severity], state, text: [alert.text], foot: alert.end_text };
}

function actionItem(action) {
  const title = `${words(action.kind)} ${action.from_state || action.target}${action.to_state ? ` → ${action.to_state}` : action.kind === 'rollback' ? ' → stable' : ''}`;
  return { t_us: action.proposed_us, kind: ['failed', 'refused', 'rejected', 'expired'].includes(action.status) ? 'failed' : 'action',
    symbol: SYMBOL.action, ref: action.incident_id, title, tags: [action.mode], state: action.result, text: [action.reason], foot: action.answer };
}

function deployItem(mark) {
  return { t_us: mark.t_us, kind: 'deploy', symbol: SYMBOL.deploy, ref: '', title: words(mark.name), tags: [],
    state: mark.target, text: [mark.text], foot: '' };
}

export function paintFeed(events, now_us, highlight) {
  const items = [
    ...events.alerts.map((alert) => alertItem(alert, now_us)),
    ...events.actions.map(actionItem),
    ...events.marks.filter((mark) => mark.kind === 'deploy').map(deployItem),
  ].sort((a, b) => b.t_us - a.t_us || RANK[b.symbol] - RANK[a.symbol]).slice(0, FEED_MAX);
  const feed = byId('feed');
  if (!items.length) {
    feed.replaceChildren(make('li', { class: 'nothing' }, 'Nothing yet: no deploy in 24 hours, no alert and no action in 30 days.'));
    return;
  }
  feed.replaceChildren(...items.map((item) => {
    const entry = make('li', { class: item.kind, 'data-ref': item.ref },
      make('span', { class: 'symbol', 'aria-hidden': 'true' }, item.symbol),
      make('div', {},
        make('p', { class: 'head' }, make('strong', {}, item.title), make('time', { title: dateTime(item.t_us), datetime: new Date(item.t_us / 1000).toISOString() }, now_us - item.t_us > DAY_US ? dateTime(item.t_us) : clock(item.t_us))),
        make('p', { class: 'state' }, item.state, ...item.tags.map((tag) => make('span', { class: 'tag' }, tag))),
        ...item.text.filter(Boolean).map((text) => make('p', { class: 'text' }, text)),
        item.foot ? make('p', { class: 'foot' }, item.foot) : null));
    if (item.ref) {
      entry.addEventListener('mouseenter', () => highlight(item.ref));
      entry.addEventListener('mouseleave', () => highlight(null));
    }
    return entry;
  }));
}

const columnHead = (name) => (name ? make('th', { scope: 'col' }, name) : make('td'));

// Rows that say the same are left alone, so that a selection in them survives.
const painted = {};
function same(name, rows) {
  const text = JSON.stringify(rows);
  if (painted[name] === text) return true;
  painted[name] = text;
  return false;
}

export function paintTenants(rows) {
  if (same('tenants', rows)) return;
  const box = byId('tenants');
  if (!rows.length) {
    box.replaceChildren(make('p', { class: 'nothing' }, 'No bill yet today. It appears with the first priced engine window.'));
    return;
  }
  const most = Math.max(...rows.map((row) => row.share || 0), 0.01);
  box.replaceChildren(make('table', { class: 'list' },
    make('thead', {}, make('tr', {}, ...['Tenant', '', 'Spend', 'Share'].map(columnHead))),
    make('tbody', {}, ...rows.map((row) => {
      const bar = make('i', { class: 'bar' });
      bar.style.setProperty('--share', (row.share || 0) / most);
      const name = row.line === 'tenant' ? row.owner || 'no tenant' : row.line;
      return make('tr', { class: row.line }, make('th', { scope: 'row' }, name), make('td', { class: 'wide' }, bar),
        make('td', {}, nanoDollars(row.spend_nusd)), make('td', {}, row.share === null ? '–' : `${percent(row.share)} %`));
    }))));
}

export function paintEngines(rows, now_us, limit) {
  if (same('engines', rows)) return;
  const box = byId('engines');
  if (!rows.length) {
    box.replaceChildren(make('p', { class: 'nothing' }, 'No engine seen in the last 30 s. Name one under collectors.engines.'));
    return;
  }
  box.replaceChildren(make('table', { class: 'list' },
    make('thead', {}, make('tr', {}, ...['Engine', 'Version', 'KV cache', '', 'Run', 'Wait'].map(columnHead))),
    make('tbody', {}, ...rows.map((row) => {
      const bar = make('i', { class: 'bar' });
      bar.style.setProperty('--share', row.kv_cache_usage ?? 0);
      const full = row.kv_cache_usage !== null && limit !== undefined && row.kv_cache_usage >= limit;
      return make('tr', { class: row.up ? (full ? 'full' : '') : 'down', title: `sampled ${age(Math.max(0, (now_us - row.sampled_us) / 1000)).join(' ')} ago` },
        make('th', { scope: 'row' }, row.instance, row.up ? null : make('span', { class: 'tag' }, 'down')),
        make('td', { class: 'text' }, row.version || row.model), make('td', { class: 'wide' }, bar),
        make('td', {}, row.kv_cache_usage === null ? '–' : `${percent(row.kv_cache_usage)} %`),
        make('td', {}, row.running === null ? '–' : count(row.running)), make('td', {}, row.waiting === null ? '–' : count(row.waiting)));
    }))));
}

export function paintVerdict(verdict, right) {
  const box = byId('verdict');
  if (box.dataset.level !== verdict.level) box.dataset.level = verdict.level;
  setText(byId('verdict-text'), verdict.text);
  setText(byId('verdict-detail'), verdict.detail);
  setText(byId('clock'), right);
}
