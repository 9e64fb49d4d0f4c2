// Numbers and times as people read them. No data is never a number here: callers check for null.

const trim = (text) => text.replace(/\.0+$/, '');

export function count(v) {
  if (v >= 1e6) return trim((v / 1e6).toFixed(v >= 1e7 ? 0 : 1)) + 'M';
  if (v >= 1e4) return trim((v / 1e3).toFixed(v >= 1e5 ? 0 : 1)) + 'k';
  return Math.round(v).toLocaleString('en-US');
}

export function rate(v) {
  if (v >= 1e4) return trim((v / 1e3).toFixed(1)) + 'k';
  return v >= 100 ? Math.round(v).toString() : v >= 10 ? v.toFixed(1) : v.toFixed(2);
}

// [figure, unit], because tiles set the unit smaller
export function milliseconds(v) {
  if (v < 1) return [v.toFixed(2), 'ms'];
  if (v < 1000) return [v < 10 ? v.toFixed(1) : Math.round(v).toString(), 'ms'];
  if (v < 120000) return [(v / 1000).toFixed(v < 10000 ? 2 : 1), 's'];
  return age(v);
}

export function age(v) {
  const s = v / 1000;
  if (s < 10) return [s.toFixed(1), 's'];
  if (s < 120) return [Math.round(s).toString(), 's'];
  if (s < 7200) return [Math.floor(s / 60).toString(), 'min'];
  if (s < 172800) return [(s / 3600).toFixed(1), 'h'];
  return [Math.floor(s / 86400).toString(), 'days'];
}

export function percent(ratio) {
  const v = ratio * 100;
  if (v === 0) return '0';
  if (v < 0.01) return '<0.01';
  return v < 1 ? v.toFixed(2) : v < 10 ? v.toFixed(1) : Math.round(v).toString();
}

export function dollars(v) {
  const size = Math.abs(v);
  if (size >= 1e5) return '$' + count(v);
  if (size >= 1000) return '$' + Math.round(v).toLocaleString('en-US');
  if (size === 0 || size >= 0.1) return '$' + v.toFixed(2);
  return '$' + v.toPrecision(2);
}

export const nanoDollars = (v) => dollars(v / 1e9);

export function span(us) {
  const s = Math.max(0, Math.round(us / 1e6));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min${s % 60 && s < 600 ? ` ${s % 60} s` : ''}`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} days`;
}

const two = (v) => String(v).padStart(2, '0');

export function clock(us, seconds = true) {
  const d = new Date(us / 1000);
  return `${two(d.getHours())}:${two(d.getMinutes())}${seconds ? ':' + two(d.getSeconds()) : ''}`;
}

export function dateTime(us) {
  const d = new Date(us / 1000);
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${clock(us)}`;
}

export function words(name) {
  const raised = { slo: 'SLO', kv: 'KV', ttft: 'TTFT', gpu: 'GPU', usd: '$' };
  const text = name.split('_').map((part) => raised[part] || part).join(' ');
  return /^p\d/.test(text) ? text : text.charAt(0).toUpperCase() + text.slice(1);
}
