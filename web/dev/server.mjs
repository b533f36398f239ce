// The page with fixture data, live: node dev/server.mjs [--scenario four] [--port 7500]
import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import * as fixtures from "./fixtures.mjs";

const home = join(dirname(fileURLToPath(import.meta.url)), "../../src/farflung/window/static");
const TYPES = { html: "text/html", js: "text/javascript", css: "text/css", svg: "image/svg+xml", woff2: "font/woff2", txt: "text/plain" };
export const POLICY = "default-src 'self'; frame-ancestors *; base-uri 'none'; form-action 'none'";

/** Serves `scenario` on loopback; `pace_ms`: a new round every so often, 0: none. */
export function serve(scenario, { port = 0, pace_ms = 2000 } = {}) {
  const run = fixtures.run(scenario, Date.now() / 1000 - 0.5);
  let now = run.spec.rounds;
  const answer = {
    frame: () => fixtures.frame(run, now),
    head: () => fixtures.head(run, now),
    rounds: (q) => fixtures.rounds(run, now, num(q, "from", 0), num(q, "to", now), num(q, "points", 1000)),
    evaluations: () => fixtures.evaluations(run, now),
    peers: () => fixtures.peers(run, now),
    regions: () => fixtures.frame(run, now).regions,
    links: () => fixtures.links(run, now),
    lines: (q) => fixtures.lines(run, now, { before: num(q, "before", Infinity), limit: num(q, "limit", 200), kind: q.get("kind") ?? "", q: q.get("q") ?? "" }),
    timeline: (q) => {
      const out = [];
      for (let r = num(q, "from", 0); r <= Math.min(now - 1, num(q, "to", now)); r += 1) out.push(fixtures.timeline(run, r, num(q, "peers", 64)));
      return out;
    },
  };
  const streams = new Set();
  const tell = (kind, value) => {
    for (const stream of streams) stream.write(`event: ${kind}\ndata: ${JSON.stringify(value)}\n\n`);
  };
  const advance = () => {
    if (run.spec.state !== undefined || now === 0 || now >= run.spec.wanted) return;
    tell("round", fixtures.row(run, now));
    now += 1;
    tell("head", fixtures.head(run, now));
    tell("timeline", fixtures.timeline(run, now - 1));
    tell("links", fixtures.links(run, now));
    tell("peers", fixtures.peers(run, now).slice(0, 20));
    for (const one of fixtures.lines(run, now, { limit: 3 }).reverse()) tell("line", one);
    const evaluation = fixtures.evaluations(run, now).at(-1);
    if (evaluation?.round === now) tell("evaluation", evaluation);
  };
  const timer = pace_ms > 0 ? setInterval(advance, pace_ms) : null;
  const server = createServer((request, response) => {
    const url = new URL(request.url, "http://here");
    const send = (status, type, body) => {
      response.writeHead(status, { "content-type": `${type}; charset=utf-8`, "content-security-policy": POLICY, "cache-control": "no-store" });
      response.end(body);
    };
    const api = url.pathname.match(/^\/api\/v1\/(\w+)(?:\/(\w+))?$/);
    if (api === null) {
      const name = url.pathname === "/" ? "index.html" : url.pathname.slice(1);
      try {
        send(200, TYPES[name.split(".").at(-1)] ?? "application/octet-stream", readFileSync(join(home, name.replaceAll("..", ""))));
      } catch {
        send(404, "text/plain", "no such file");
      }
    } else if (api[1] === "stream") {
      response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
      response.write(`event: head\ndata: ${JSON.stringify(fixtures.head(run, now))}\n\n`);
      streams.add(response);
      request.on("close", () => streams.delete(response));
    } else if (api[1] === "peers" && api[2] !== undefined) {
      const page = fixtures.peerPage(run, now, api[2]);
      send(page === null ? 404 : 200, "application/json", JSON.stringify(page));
    } else if (answer[api[1]] !== undefined) {
      send(200, "application/json", JSON.stringify(answer[api[1]](url.searchParams)));
    } else {
      send(404, "application/json", "{}");
    }
  });
  return new Promise((resolve) => {
    server.listen(port, "127.0.0.1", () => {
      resolve({
        url: `http://127.0.0.1:${server.address().port}/`,
        run,
        advance,
        cut: () => streams.forEach((s) => s.destroy()),
        close: () => {
          clearInterval(timer);
          streams.forEach((s) => s.destroy());
          server.close();
          server.closeAllConnections();
        },
      });
    });
  });
}

const num = (q, name, otherwise) => (q.has(name) ? Number(q.get(name)) : otherwise);

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const option = (name, otherwise) => {
    const i = process.argv.indexOf(`--${name}`);
    return i < 0 ? otherwise : process.argv[i + 1];
  };
  const { url } = await serve(option("scenario", "four"), { port: Number(option("port", "7500")) });
  console.log(`${url} serves ${option("scenario", "four")}; scenarios: ${Object.keys(fixtures.SCENARIOS).join(", ")}`);
}
