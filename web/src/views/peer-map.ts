/** A small world with one place on it. */

import { geoEqualEarth, geoPath } from "d3-geo";
import packed from "../../map/world.json";
import { s } from "../dom";
import type { Region } from "../types";
import { placeName } from "./kit";
import { decodeWorld } from "./world";

const WIDTH = 300;
const HEIGHT = 140;

export function miniMap(region: Region): SVGElement {
  const { land } = decodeWorld(packed);
  const projection = geoEqualEarth().rotate([-11, 0]).fitExtent([[2, 2], [WIDTH - 2, HEIGHT - 2]], land);
  const path = geoPath(projection).digits(1);
  const [x, y] = projection([region.lon, region.lat]) ?? [0, 0];
  return s(
    "svg",
    { class: "peer-map", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `On the map: ${placeName(region)}` },
    s("path", { class: "map-ground", d: path(land) ?? "" }),
    s("circle", { class: "peer-halo", cx: x.toFixed(1), cy: y.toFixed(1), r: 9 }),
    s("circle", { class: "peer-spot", cx: x.toFixed(1), cy: y.toFixed(1), r: 3.5 }),
  );
}
