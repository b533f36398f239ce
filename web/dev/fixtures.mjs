// Plausible runs, the same ones every time: what the API would answer for them at any round.

/** A number in [0, 1) that depends on its arguments only. */
export function dice(...seeds) {
  let x = 0x9e3779b9;
  for (const seed of seeds) {
    x = Math.imul(x ^ (seed | 0), 0x85ebca6b);
    x ^= x >>> 13;
    x = Math.imul(x, 0xc2b2ae35);
    x ^= x >>> 16;
  }
  return (x >>> 0) / 4294967296;
}
const bell = (...seeds) =>
  (dice(...seeds, 1) + dice(...seeds, 2) + dice(...seeds, 3) + dice(...seeds, 4) - 2) * 1.73;
const hex = (seed, n) =>
  Array.from({ length: n }, (_, i) => Math.floor(dice(seed, i) * 16).toString(16)).join("");

const CITIES = `FRA Frankfurt DE 50.03 8.56|SIN Singapore SG 1.36 103.99|SFO San Francisco US 37.62 -122.38
BOS Boston US 42.36 -71.01|GRU São Paulo BR -23.44 -46.47|NRT Tokyo JP 35.76 140.39|SYD Sydney AU -33.95 151.18
LHR London GB 51.47 -0.45|CDG Paris FR 49.01 2.55|ZRH Zürich CH 47.46 8.55|BOM Mumbai IN 19.09 72.87
ICN Seoul KR 37.46 126.44|YYZ Toronto CA 43.68 -79.63|JNB Johannesburg ZA -26.14 28.25|NBO Nairobi KE -1.32 36.93
SCL Santiago CL -33.39 -70.79|MEX Mexico City MX 19.44 -99.07|ARN Stockholm SE 59.65 17.92|WAW Warsaw PL 52.17 20.97
MAD Madrid ES 40.47 -3.56|FCO Rome IT 41.80 12.25|IST Istanbul TR 41.26 28.74|TLV Tel Aviv IL 32.01 34.89
DXB Dubai AE 25.25 55.36|BKK Bangkok TH 13.69 100.75|HKG Hong Kong HK 22.31 113.91|TPE Taipei TW 25.08 121.23
AKL Auckland NZ -37.01 174.79|SEA Seattle US 47.45 -122.31|IAD Washington US 38.94 -77.46|ORD Chicago US 41.98 -87.90
DFW Dallas US 32.90 -97.04|DEN Denver US 39.86 -104.67|LOS Lagos NG 6.58 3.32|CAI Cairo EG 30.12 31.41
EZE Buenos Aires AR -34.82 -58.54|BOG Bogotá CO 4.70 -74.15|KEF Reykjavík IS 63.99 -22.61|HEL Helsinki FI 60.32 24.96
MEL Melbourne AU -37.67 144.84`
  .split(/[|\n]/)
  .map((line) => {
    const [key, ...rest] = line.split(" ");
    const lon = Number(rest.pop());
    const lat = Number(rest.pop());
    const country = rest.pop();
    return { key, city: rest.join(" "), country, lat, lon };
  });

const ADJECTIVES = "calm amber brisk quiet lunar polar tidal mossy copper gentle rapid solar velvet nimble misty bold".split(" ");
const ANIMALS = "otter heron lynx marten plover ibex newt tern vole egret stoat finch hare curlew badger wren".split(" ");
const DEVICES = [
  ["H200", 141e9, 210e3, 0.43],
  ["H100 SXM", 80e9, 190e3, 0.41],
  ["A100 80 GB", 80e9, 96e3, 0.46],
  ["RTX 4090", 24e9, 52e3, 0.38],
  ["RTX 3090", 24e9, 26e3, 0.36],
  ["M3 Max", 48e9, 9e3, 0.3],
];
const PROMPTS = [
  ["The capital of France is", " Paris, a city on the Seine that has been the seat of government since the twelfth century."],
  ["Once upon a time, in a village by the sea,", " there lived an old net-maker who spoke to no one but the gulls. Every morning she walked to the end of the pier and counted the boats, and every evening she counted them again."],
  ["To compute the determinant of a 3 × 3 matrix,", " expand along the first row: multiply each entry by the determinant of the 2 × 2 matrix that is left when its row and column are removed, with alternating signs, and add."],
  ["The reason that the sky is blue", " is that short wavelengths are scattered more than long ones by molecules of the air."],
];
const BABBLE = "the of and a in to is was it for on that with as by at from his which her an were are be had not this or one their been has its but all more when they we there some about into over time only new".split(" ");

export const SCENARIOS = {
  four: { peers: 4, rounds: 50, wanted: 120, tick: 2, steps: 30, name: "calm-otter" },
  thousand: { peers: 1000, rounds: 2000, wanted: 4000, tick: 60, steps: 120, name: "great-auk 7B", parameters: 6.9e9 },
  long: { peers: 40, rounds: 100000, wanted: 150000, tick: 40, steps: 60, name: "long-march" },
  fresh: { peers: 1, rounds: 0, wanted: 120, tick: 2, steps: 30, name: "new-dawn" },
  paused: { peers: 4, rounds: 50, wanted: 120, tick: 2, steps: 30, name: "calm-otter", state: "paused" },
  drift: { peers: 12, rounds: 300, wanted: 900, tick: 20, steps: 60, name: "split-mind", drift: true },
  finished: { peers: 6, rounds: 240, wanted: 240, tick: 20, steps: 60, name: "calm-otter", state: "finished" },
  stopped: { peers: 4, rounds: 50, wanted: 120, tick: 2, steps: 30, name: "calm-otter", state: "stopped" },
  hostile: { peers: 8, rounds: 40, wanted: 100, tick: 10, steps: 60, name: '<img src=x onerror="throw 1">', hostile: true },
};

const T0 = 1_795_000_000;
const PHASES = ["train", "wait", "encode", "send", "reduce", "receive", "vote", "merge"];

/** `ends`: unix seconds when its newest round was resolved. */
export function run(scenario, ends = null) {
  const spec = { parameters: 124e6, ...SCENARIOS[scenario] };
  if (SCENARIOS[scenario] === undefined) throw new Error(`no scenario ${scenario}`);
  const people = Array.from({ length: spec.peers }, (_, i) => person(spec, i));
  const made = { scenario, spec, people, started: T0 };
  if (ends !== null) {
    const length = sums(made, spec.rounds).at[spec.rounds] - T0;
    return { scenario, spec, people, started: ends - length };
  }
  return made;
}

function person(spec, i) {
  const kind = DEVICES[spec.peers <= 4 ? i % 4 : Math.min(5, Math.floor(dice(i, 11) ** 1.4 * 6))];
  const name = `${ADJECTIVES[Math.floor(dice(i, 3) * 16)]}-${ANIMALS[Math.floor(dice(i, 4) * 16)]}${spec.peers > 12 ? `-${i}` : ""}`;
  const hostile = ["<script>throw 2</script>", "x".repeat(64), "\"><svg onload=throw 3>", "&amp;&lt;b&gt;", "𝕱𝖆𝖓𝖈𝖞 名前 🦦"];
  return {
    node: hex(1000 + i, 32),
    name: spec.hostile && i < 5 ? hostile[i] : name,
    region: CITIES[spec.peers <= 4 ? [0, 3, 1, 4][i] : Math.floor(dice(i, 5) ** 1.3 * CITIES.length)],
    device: kind[0],
    memory: kind[1] * 0.83,
    speed: kind[2] * (124e6 / spec.parameters) * (0.9 + 0.2 * dice(i, 6)),
    mfu: kind[3],
    joined: i < 3 ? 0 : Math.floor(dice(i, 8) ** 2 * Math.max(1, spec.rounds * 0.8)),
    left: dice(i, 9) > 0.86 && i > 3 ? 0.5 + dice(i, 10) * 0.5 : 2,
  };
}

const lossAt = (r, spec) =>
  2.35 + 8.05 * (1 + (r * 30) / spec.steps / (spec.wanted / 90)) ** -0.85 - 0.25 * (r / spec.wanted);
const lrAt = (r, spec) => {
  const warm = spec.wanted * 0.03;
  if (r < warm) return (r + 1) / warm;
  return 0.1 + 0.45 * (1 + Math.cos((Math.PI * (r - warm)) / (spec.wanted - warm)));
};
const activeAt = (run, r) => run.people.filter((p) => p.joined <= r && (p.left > 1 || r < p.left * run.spec.rounds + 1));
const countAt = (run, r) => {
  if (run.counts === undefined) {
    run.counts = new Float64Array(run.spec.wanted + 2);
    for (const p of run.people) {
      run.counts[Math.min(p.joined, run.spec.wanted)] += 1;
      if (p.left < 1) run.counts[Math.floor(p.left * run.spec.rounds)] -= 1;
    }
    for (let i = 1; i < run.counts.length; i += 1) run.counts[i] += run.counts[i - 1];
  }
  return Math.max(1, run.counts[Math.min(r, run.spec.wanted)] - Math.floor(dice(r, 21) * run.spec.peers * 0.03));
};
const tookAt = (run, r) => run.spec.tick * (1 + 0.06 * bell(r, 22) + (dice(r, 23) > 0.97 ? 0.8 : 0));
const perPeer = (run) => run.spec.steps * 16 * 1024;

/** Cumulative sums, once. */
function sums(run, upto) {
  run.sum ??= { at: [run.started], tokens: [0] };
  const { at, tokens } = run.sum;
  for (let r = at.length - 1; r < upto; r += 1) {
    at.push(at[r] + tookAt(run, r));
    tokens.push(tokens[r] + (dice(r, 24) > 0.985 ? 0 : countAt(run, r) * perPeer(run)));
  }
  return run.sum;
}

export function row(run, r) {
  const { at, tokens } = sums(run, r + 1);
  const gone = tokens[r + 1] === tokens[r];
  const spec = run.spec;
  return {
    round: r,
    at: at[r + 1],
    loss: gone ? null : lossAt(r, spec) + 0.05 * bell(r, 31) + (dice(r, 32) > 0.995 ? 0.5 : 0),
    lr: lrAt(r, spec),
    grad_norm: 0.35 + 2.2 * (1 + r / (spec.wanted / 60)) ** -0.7 + 0.06 * Math.abs(bell(r, 33)),
    tokens: tokens[r + 1],
    tokens_per_s: (tokens[r + 1] - tokens[r]) / (at[r + 1] - at[r]),
    peers: gone ? 0 : countAt(run, r),
    took_s: at[r + 1] - at[r],
    utilisation: Math.min(0.985, 0.91 + 0.025 * bell(r, 34) - (dice(r, 23) > 0.97 ? 0.3 : 0)),
    bytes_up: spec.parameters * 0.5 * (1 + 0.05 * bell(r, 35)),
    abandoned: gone ? 1 : 0,
  };
}

export function rounds(run, now, from = 0, to = now, points = 1000) {
  const stop = Math.min(to, now);
  const first = Math.max(0, Math.min(from, stop));
  const stride = Math.max(1, Math.ceil((stop - first) / points));
  const out = { from: first, to: stop, stride };
  const names = ["round", "at", "loss", "loss_min", "loss_max", "lr", "grad_norm", "tokens", "tokens_per_s", "peers", "took_s", "utilisation", "bytes_up", "abandoned"];
  for (const name of names) out[name] = [];
  for (let start = first; start < stop; start += stride) {
    const bucket = [];
    for (let r = start; r < Math.min(stop, start + stride); r += 1) bucket.push(row(run, r));
    const mean = (key) => {
      const known = bucket.map((b) => b[key]).filter((x) => x !== null);
      return known.length === 0 ? null : known.reduce((a, b) => a + b, 0) / known.length;
    };
    const losses = bucket.map((b) => b.loss).filter((x) => x !== null);
    const last = bucket.at(-1);
    out.round.push(last.round);
    out.at.push(last.at);
    out.loss.push(mean("loss"));
    out.loss_min.push(losses.length ? Math.min(...losses) : null);
    out.loss_max.push(losses.length ? Math.max(...losses) : null);
    for (const key of ["lr", "grad_norm", "tokens_per_s", "took_s", "utilisation"]) out[key].push(mean(key));
    out.tokens.push(last.tokens);
    out.peers.push(Math.round(mean("peers")));
    out.bytes_up.push(Math.max(...bucket.map((b) => b.bytes_up)));
    out.abandoned.push(bucket.filter((b) => b.abandoned).length);
  }
  return out;
}

export function evaluations(run, now) {
  const every = Math.max(1, Math.ceil(run.spec.wanted / 30));
  const found = [];
  for (let r = every; r <= now; r += every) {
    const nats = lossAt(r, run.spec) + 0.06 + 0.015 * bell(r, 41);
    const good = Math.min(1, Math.max(0, (4.2 - nats) / 1.5));
    found.push({
      round: r,
      at: sums(run, r).at[r] + 1.2,
      bits_per_byte: nats / Math.LN2 / 4.3,
      nats_per_token: nats,
      by: run.people[0].name,
      samples: PROMPTS.map(([prompt, text], i) => ({ prompt, text: spoken(text, good, r, i, run.spec.hostile) })),
    });
  }
  return found;
}

/** The text as a model that is `good` (0..1) at it would say it. */
function spoken(text, good, r, i, hostile) {
  if (hostile) return ` <b>bold?</b> <script>throw 4</script> ${"long".repeat(60)}`;
  return text
    .split(" ")
    .map((word, j) => (word === "" || dice(r, i, j, 42) < good ? word : BABBLE[Math.floor(dice(r, i, j, 43) ** 2 * BABBLE.length)]))
    .join(" ");
}

export function peers(run, now) {
  const { at, tokens } = sums(run, now);
  const time = at[now];
  const all = Math.max(1, tokens[now]);
  const rows = run.people.map((p, i) => {
    const until = p.left > 1 ? now : Math.min(now, Math.floor(p.left * run.spec.rounds));
    const here = p.joined <= now && (p.left > 1 || until >= now);
    const contributed = Math.max(0, Math.floor((until - p.joined) * (0.96 + 0.04 * dice(i, 51))));
    const mine = contributed * perPeer(run) * (p.speed / 52e3) ** 0.15;
    const suspect = here && now > 0 && dice(i, Math.floor(now / 7), 52) > 0.975;
    const waiting = now === 0;
    return {
      node: p.node, name: p.name, role: "trainer",
      state: p.joined > now ? "joined" : suspect ? "suspect" : here ? "active" : dice(i, 53) > 0.6 ? "away" : "gone",
      why: suspect ? "silent for 6 s" : here ? "" : "left: its owner stopped it",
      region: dice(i, 54) > 0.97 ? "" : p.region.key, device: p.device,
      software: dice(i, 55) > 0.2 ? "farflung 0.1.0" : "farflung 0.0.9",
      joined: at[Math.min(p.joined, now)], uptime_s: Math.max(0, at[until] - at[Math.min(p.joined, until)]),
      rounds: contributed, steps: contributed * run.spec.steps, samples: contributed * run.spec.steps * 16,
      tokens: Math.round(mine), share: mine / all, strikes: Math.floor(dice(i, 56) ** 6 * 9),
      loss: waiting ? null : lossAt(now, run.spec) + 0.08 * bell(i, now, 57),
      tokens_per_s: here && !waiting ? p.speed * (1 + 0.03 * bell(i, now, 58)) : null,
      mfu: here && !waiting && p.device !== "M3 Max" ? p.mfu + 0.01 * bell(i, now, 59) : null,
      utilisation: here && !waiting ? Math.min(0.99, 0.9 + 0.04 * bell(i, now, 60)) : null,
      grad_norm: waiting ? null : 0.4 + 0.05 * bell(i, now, 61),
      memory_bytes: waiting ? null : p.memory,
      bytes_up: contributed * run.spec.parameters * 0.5, bytes_down: contributed * run.spec.parameters * 0.55,
      agrees: contributed === 0 ? null : !(run.spec.drift && i === 2),
    };
  });
  const sum = rows.reduce((a, b) => a + b.tokens, 0) || 1;
  for (const r of rows) {
    r.share = r.tokens / sum;
    r.tokens = Math.round(r.share * tokens[now]);
  }
  rows.push({
    ...rows[0], node: hex(999, 32), name: "keeper", role: "keeper", state: "active", why: "", region: "FRA", device: "", joined: at[0],
    uptime_s: time - at[0], rounds: 0, steps: 0, samples: 0, tokens: 0, share: 0, strikes: 0, loss: null, tokens_per_s: null, mfu: null,
    utilisation: null, grad_norm: null, memory_bytes: null, agrees: now > 0 ? true : null,
  });
  return rows.sort((a, b) => b.tokens - a.tokens);
}

export function head(run, now) {
  const { spec } = run;
  const { at, tokens } = sums(run, now + 1);
  const people = peers(run, now);
  const active = people.filter((p) => p.role === "trainer" && (p.state === "active" || p.state === "suspect"));
  const last = now > 0 ? row(run, now - 1) : null;
  const done = spec.state === "finished";
  const state = spec.state ?? (now === 0 ? "waiting" : "running");
  const reason = {
    waiting: "waits for 2 more peers: 1 of 3 has joined",
    running: `round ${now} is open: ${active.length} peers train`,
    paused: "2 of 3 peers are active; goes on when one more joins",
    finished: `all ${spec.wanted} rounds are committed`,
    stopped: "nobody serves this run now; its log ends at round " + now,
  }[state];
  const perS = now > 0 ? tokens[now] / (at[now] - at[0]) : null;
  const evals = evaluations(run, now);
  return {
    version: 1, at: at[now] + 0.4, run: hex(7, 32), name: spec.name, descent: "", parameters: spec.parameters, term: 1, state, reason,
    since: state === "paused" ? at[now] - 130 : at[0], started: now > 0 ? at[0] : null, round: done ? now - 1 : now - (now === 0 ? 1 : 0),
    rounds: now, rounds_wanted: spec.wanted, abandoned: Math.floor(now * 0.014), rejected: Math.floor(now / 90),
    tokens: tokens[now], tokens_wanted: now > 0 ? (tokens[now] / now) * spec.wanted : spec.wanted * spec.peers * perPeer(run),
    eta_s: now > 0 && state === "running" ? ((spec.wanted - now) * (at[now] - at[0])) / now : null,
    tokens_per_s: perS, tflops: perS === null ? null : (perS * 6.4 * spec.parameters) / 1e12, mfu: now > 0 ? 0.402 : null,
    utilisation: last?.utilisation ?? null, loss: last?.loss ?? null, bits_per_byte: evals.at(-1)?.bits_per_byte ?? null,
    peers_active: active.length, peers_seen: spec.peers, regions: new Set(active.map((p) => p.region).filter(Boolean)).size,
    bytes_up: now * spec.parameters * 0.5 * active.length, bytes_down: now * spec.parameters * 0.55 * active.length,
    reduction: now > 0 ? 4.1 * spec.steps : null, state_root: hex(now + 77, 64), agreements: now * active.length, disagreements: spec.drift ? 3 : 0,
    drift: spec.drift ? [{ round: now - 1, name: run.people[2].name }, { round: now - 2, name: run.people[2].name }] : [],
    archived: now > 20 ? now - (now % 20) : -1, uploading: "", keeper_disk: "4.1 GB of 20 GB",
    settings: { preset: spec.parameters > 1e9 ? "7b" : "124m", "steps a round": spec.steps, fragments: 4, overlap: 1, codec: "int4 + error feedback", "outer lr": 0.7, "outer momentum": 0.9, "sequence length": 1024, "batch (sequences)": 16, "min peers": 3, tokenizer: "byte-bpe 32k" },
    sources: [
      { name: "fineweb-edu", share: 0.62, samples: Math.round((tokens[now] / 1024) * 0.62), epochs: 0.08 },
      { name: "wikipedia-en", share: 0.2, samples: Math.round((tokens[now] / 1024) * 0.2), epochs: 0.31 },
      { name: "stack-python", share: 0.12, samples: Math.round((tokens[now] / 1024) * 0.12), epochs: 0.12 },
      { name: "gutenberg", share: 0.06, samples: Math.round((tokens[now] / 1024) * 0.06), epochs: 1.12 },
    ],
    map: true,
  };
}

export function timeline(run, r, most = 64) {
  const { at } = sums(run, r + 2);
  const tick = run.spec.tick;
  const members = activeAt(run, r);
  const list = members.map((p, i) => {
    const slow = dice(r, i, 71) > 0.93 ? 1.35 : 1;
    const parts = [0.02 * dice(r, i, 72), 0.66 * (0.92 + 0.12 * dice(i, 73)) * slow, 0.02, 0.08 * (0.6 + dice(r, i, 74)), 0.05, 0.05 * (0.5 + dice(r, i, 75)), 0.04, 0.02];
    const kinds = [1, 0, 2, 3, 4, 5, 6, 7];
    const spans = [];
    let t = 0;
    const ready = (parts[0] + parts[1]) * tick;
    kinds.forEach((kind, k) => {
      const d = parts[k] * tick;
      if (kind === 3) {
        const wait = Math.max(0, 0.71 * tick - t);
        if (wait > 0) spans.push(1, t, t + wait);
        t += wait;
      }
      spans.push(kind, t, t + d);
      t += d;
    });
    return { node: p.node, name: p.name, spans: spans.map((x) => Math.round(x * 1000) / 1000), ready, left_out: dice(r, i, 76) > 0.985 ? "silent for 6 s" : "" };
  });
  list.sort((a, b) => b.ready - a.ready);
  const outcome = dice(r, 24) > 0.985 ? "abandoned" : "committed";
  return {
    round: r, fragment: r % 4, opened: at[r], resolved: at[r + 1], outcome, attempts: dice(r, 77) > 0.9 ? 2 : 1, phases: PHASES,
    peers: list.slice(0, most), more: Math.max(0, list.length - most),
  };
}

export function links(run, now, most = 48) {
  const members = activeAt(run, Math.max(0, now - 1)).slice(0, most);
  const pairs = [];
  members.forEach((a, i) =>
    members.forEach((b, j) => {
      if (i === j || (members.length > 12 && dice(i, j, 81) > 0.45)) return;
      const d = Math.hypot(a.region.lat - b.region.lat, a.region.lon - b.region.lon);
      pairs.push({
        from: i, to: j, bytes_per_s: 9e7 / (1 + d / 25) * (0.5 + dice(i, j, 82)), rtt_s: 0.004 + d * 0.0016 * (0.9 + 0.2 * dice(i, j, 83)),
        loss: dice(i, j, 84) ** 6 * 0.04, bytes: run.spec.parameters * 0.5 / Math.max(1, members.length), active: now > 0 && dice(i, j, now, 85) > 0.3,
      });
    }),
  );
  const owners = members.slice(0, 24).map((_, i) => ({ node: i, share: 1 / Math.min(24, members.length) }));
  return {
    round: now - 1, nodes: members.map((p) => ({ node: p.node, name: p.name, region: p.region.key })), pairs: now > 0 ? pairs : [],
    owners, more: Math.max(0, activeAt(run, Math.max(0, now - 1)).length - most),
  };
}

/** The log's line `n` of this run, counted from 0: three a round. */
function line(run, n) {
  const r = Math.floor(n / 3);
  const { at } = sums(run, r + 1);
  const p = run.people[Math.floor(dice(n, 91) * run.people.length)];
  const one = (kind, text, name = "") => ({ serial: n, at: at[r] + (n % 3) * 0.3 * run.spec.tick, kind, round: r, name, text });
  if (n % 3 === 2) {
    return dice(r, 24) > 0.985
      ? one("trouble", `round ${r} was abandoned: ${p.name} did not deliver its slices, and 2 of 3 peers are too few`, p.name)
      : one("round", `round ${r} committed: ${countAt(run, r)} peers, loss ${lossAt(r, run.spec).toFixed(3)}, ${tookAt(run, r).toFixed(1)} s`);
  }
  const which = dice(n, 92);
  if (which < 0.12) return one("peer", `${p.name} joined from ${p.region.city} with ${p.device.startsWith("H") || p.device.startsWith("A") ? "an" : "a"} ${p.device}`, p.name);
  if (which < 0.2) return one("peer", `${p.name} left: its owner stopped it`, p.name);
  if (which < 0.28) return one("trouble", `${p.name} is silent for 6 s; the round goes on without it if it stays so`, p.name);
  if (which < 0.34) return one("trouble", `the link from ${p.name} to keeper failed: connection reset; it dials again in 2 s`, p.name);
  if (which < 0.42) return one("note", `snapshot of round ${r} is uploaded: 498 MB in 41 s`);
  if (which < 0.5) return one("state", "the run goes on: 3 of 3 peers are active");
  if (which < 0.56) return one("evaluation", `held-out text after ${r} rounds: ${(lossAt(r, run.spec) / Math.LN2 / 4.3).toFixed(3)} bits per byte, by ${p.name}`, p.name);
  return one("round", `round ${r} opened for fragment ${r % 4}: ${countAt(run, r)} peers take part`);
}

export function lines(run, now, { before = Infinity, limit = 200, kind = "", q = "" } = {}) {
  const found = [];
  for (let n = Math.min(before, now * 3 + 1) - 1; n >= 0 && found.length < limit; n -= 1) {
    const one = line(run, n);
    if (kind && one.kind !== kind) continue;
    if (q && !`${one.text} ${one.name}`.toLowerCase().includes(q.toLowerCase())) continue;
    found.push(one);
  }
  if (now === 0 && found.length < 2) found.push({ serial: -1, at: run.started, kind: "note", round: null, name: "", text: "the run began: 120 rounds of 30 steps" });
  return found;
}

export function peerPage(run, now, node) {
  const list = peers(run, now);
  const peer = list.find((p) => p.node === node);
  if (peer === undefined) return null;
  const i = run.people.findIndex((p) => p.node === node);
  const p = run.people[i];
  const from = p?.joined ?? 0;
  const stop = p === undefined ? 0 : Math.min(now, Math.floor(p.left * run.spec.rounds));
  const stride = Math.max(1, Math.ceil((stop - from) / 500));
  const columns = { round: [], loss: [], tokens_per_s: [], wait_s: [], bytes_up: [] };
  for (let r = from; r < stop; r += stride) {
    columns.round.push(r);
    columns.loss.push(lossAt(r, run.spec) + 0.06 * bell(i, r, 95));
    columns.tokens_per_s.push(p.speed * (1 + 0.04 * bell(i, r, 96)));
    columns.wait_s.push(run.spec.tick * 0.1 * (0.5 + dice(i, r, 97)));
    columns.bytes_up.push(run.spec.parameters * 0.5);
  }
  return {
    peer, rank: list.indexOf(peer) + 1, rounds: columns,
    stays: [{ from: peer.joined, to: peer.state === "active" ? null : peer.joined + peer.uptime_s, why: peer.why }],
    lines: lines(run, now, { limit: 60, q: peer.name }),
  };
}

export function frame(run, now) {
  const first = Math.max(0, now - 6);
  const shown = [];
  for (let r = first; r < now; r += 1) shown.push(timeline(run, r));
  const used = new Set(run.people.map((p) => p.region.key));
  return {
    head: head(run, now), rounds: rounds(run, now), evaluations: evaluations(run, now), peers: peers(run, now),
    regions: CITIES.filter((c) => used.has(c.key)), timelines: shown, links: links(run, now), lines: lines(run, now),
  };
}

export function moment(run, now) {
  const f = frame(run, now);
  return { head: f.head, peers: f.peers, timelines: f.timelines, links: f.links, lines: f.lines };
}
