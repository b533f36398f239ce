/** Every view by its name: the name of a panel, of `?embed=` and of a page's address. */

import type { View } from "./view";

export const views: { readonly [name: string]: View } = {};
