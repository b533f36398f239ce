// Writes world.json: land and borders of world-atlas 110m (Natural Earth, public domain) without
// Antarctica, on a grid of 0.09 degrees, without points that no map of ours could show, each arc
// as a delta-coded string. `node map/world.mjs` in web/; needs the dev dependency world-atlas.
import { readFileSync, writeFileSync } from "node:fs";
import { quantize } from "topojson-client";

const GRID = 4000; // steps along the longer side
const TRIANGLE = 0.05; // square degrees; a point whose triangle is smaller goes (Visvalingam)
const LEFT_OUT = new Set(["Antarctica", "Fr. S. Antarctic Lands"]);

const here = new URL(".", import.meta.url);
const atlas = new URL("../node_modules/world-atlas/countries-110m.json", here);
const world = JSON.parse(readFileSync(atlas, "utf8"));

const flat = (arcs) => arcs.flat(Infinity).map((i) => (i < 0 ? ~i : i));

function without(names) {
  const kept = world.objects.countries.geometries.filter((g) => !names.has(g.properties.name));
  const used = [...new Set(kept.flatMap((g) => flat(g.arcs)))].sort((a, b) => a - b);
  const at = new Map(used.map((arc, i) => [arc, i]));
  const moved = (a) => (Array.isArray(a) ? a.map(moved) : a < 0 ? ~at.get(~a) : at.get(a));
  const land = world.objects.land.geometries[0].arcs.filter((p) => flat(p).some((i) => at.has(i)));
  return {
    type: "Topology",
    objects: {
      countries: {
        type: "GeometryCollection",
        geometries: kept.map((g) => ({ type: g.type, arcs: moved(g.arcs) })),
      },
      land: { type: "MultiPolygon", arcs: moved(land) },
    },
    arcs: used.map((i) => degrees(world.arcs[i])),
  };
}

function degrees(arc) {
  const { scale, translate } = world.transform;
  let [x, y] = [0, 0];
  return arc.map(([u, v]) => [
    (x += u) * scale[0] + translate[0],
    (y += v) * scale[1] + translate[1],
  ]);
}

function simplified(arc, { scale, translate }) {
  let [x, y] = [0, 0];
  const points = arc.map(([u, v]) => [(x += u), (y += v)]);
  const area = (a, b, c) =>
    (Math.abs((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])) / 2) *
    scale[0] * scale[1] * Math.cos(((a[1] * scale[1] + translate[1]) * Math.PI) / 180);
  while (points.length > 4) {
    let least = Infinity;
    let at = 0;
    for (let i = 1; i < points.length - 1; i++) {
      const size = area(points[i - 1], points[i], points[i + 1]);
      if (size < least) [least, at] = [size, i];
    }
    if (least >= TRIANGLE) break;
    points.splice(at, 1);
  }
  return points;
}

/** Zigzag, then five bits a character, as in encoded polylines. */
function coded(value) {
  let rest = value < 0 ? (-value << 1) - 1 : value << 1;
  let text = "";
  for (; rest >= 32; rest >>>= 5) text += String.fromCharCode(63 + (32 | (rest & 31)));
  return text + String.fromCharCode(63 + rest);
}

function text(points) {
  let [x, y] = [0, 0];
  return points
    .map(([u, v]) => {
      const step = coded(u - x) + coded(v - y);
      [x, y] = [u, v];
      return step;
    })
    .join("");
}

const round = (values) => values.map((value) => Number(value.toPrecision(8)));
const { transform, arcs, objects } = quantize(without(LEFT_OUT), GRID);
const packed = arcs.map((arc) => text(simplified(arc, transform))).join(" ");
writeFileSync(
  new URL("world.json", here),
  JSON.stringify({
    transform: { scale: round(transform.scale), translate: round(transform.translate) },
    objects,
    arcs: packed,
  }) + "\n",
);
