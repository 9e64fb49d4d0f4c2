// The columns behind the charts, and how live buckets are merged into them.

const KEYS = { traffic: ['model', 'version'], spend: ['line', 'owner'], kv: ['instance'] };
const keyOf = (group, line) => KEYS[group].map((name) => line[name]).join('\u0000');
const figures = (group, line) => Object.keys(line).filter((name) => !KEYS[group].includes(name));

export function emptyHistory() {
  return { start_s: 0, end_s: 0, step_s: 10, t: [], traffic: [], spend: [], kv: [] };
}

// Put live buckets into the columns, in place. False: they do not join on, fetch again.
export function merge(data, live, length_s) {
  if (data.step_s !== live.step_s || !data.t.length || !live.t.length) return false;
  const step = data.step_s;
  if (live.t[0] > data.t.at(-1) + step || live.t.at(-1) < data.t[0]) return false;
  const added = live.t.filter((t) => t > data.t.at(-1));
  data.t.push(...added);
  for (const group of Object.keys(KEYS)) mergeGroup(data, live, group, added.length);
  const drop = data.t.findIndex((t) => t >= data.t.at(-1) + step - length_s);
  if (drop > 0) {
    data.t.splice(0, drop);
    for (const group of Object.keys(KEYS)) {
      for (const line of data[group]) for (const name of figures(group, line)) line[name].splice(0, drop);
      data[group] = data[group].filter((line) => figures(group, line).some((name) => line[name].some((v) => v !== null)));
    }
  }
  data.start_s = data.t[0];
  data.end_s = data.t.at(-1) + step;
  return true;
}

function mergeGroup(data, live, group, added) {
  const held = new Map(data[group].map((line) => [keyOf(group, line), line]));
  for (const line of data[group]) for (const name of figures(group, line)) line[name].push(...Array(added).fill(null));
  const offset = (live.t[0] - data.t[0]) / data.step_s;
  for (const line of group === 'spend' ? folded(live.spend, held) : live[group]) {
    let target = held.get(keyOf(group, line));
    if (!target) {
      target = Object.fromEntries(KEYS[group].map((name) => [name, line[name]]));
      for (const name of figures(group, line)) target[name] = Array(data.t.length).fill(null);
      data[group].push(target);
    }
    for (const name of figures(group, line)) {
      line[name].forEach((v, i) => { if (offset + i >= 0) target[name][offset + i] = v; });
    }
  }
}

// Tenants that the whole range sums into the rest are summed into it here as well.
function folded(lines, held) {
  const rest = keyOf('spend', { line: 'tenant', owner: '__other__' });
  if (!held.has(rest)) return lines;
  const known = lines.filter((line) => line.line !== 'tenant' || held.has(keyOf('spend', line)));
  const unknown = lines.filter((line) => !known.includes(line));
  if (!unknown.length) return known;
  const sum = unknown[0].usd_per_hour.map((_, i) => unknown.reduce((all, line) => (line.usd_per_hour[i] === null ? all : (all || 0) + line.usd_per_hour[i]), null));
  return [...known, { line: 'tenant', owner: '__other__', usd_per_hour: sum }];
}

export function mergeSpark(spark, live) {
  if (!spark || !spark.t.length) return live;
  const from = live.t[0], keep = spark.t.filter((t) => t < from).length;
  const length = spark.t.length, merged = {};
  for (const name of Object.keys(spark)) merged[name] = [...spark[name].slice(0, keep), ...live[name]].slice(-length);
  return merged;
}
