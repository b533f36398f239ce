/** Every view by its name: the name of a panel, of `?embed=` and of a page's address. */

import { charts } from "./charts/panels";
import { about, setup, sources } from "./panels/about";
import { headline } from "./panels/headline";
import { log } from "./panels/log";
import { samples } from "./panels/samples";
import type { View } from "./view";

export const views: { readonly [name: string]: View } = {
  ...charts,
  headline,
  samples,
  log,
  about,
  setup,
  sources,
};
