/** Every view by its name: the name of a panel, of `?embed=` and of a page's address. */

import { charts } from "./charts/panels";
import { about, setup, sources } from "./panels/about";
import { headline } from "./panels/headline";
import { log } from "./panels/log";
import { samples } from "./panels/samples";
import type { View } from "./view";
import { links } from "./views/links";
import { map } from "./views/map";
import { peer } from "./views/peer";
import { peers } from "./views/peers";
import { timeline } from "./views/timeline";

export const views: { readonly [name: string]: View } = {
  ...charts,
  headline,
  map,
  timeline,
  links,
  peers,
  peer,
  samples,
  log,
  about,
  setup,
  sources,
};
