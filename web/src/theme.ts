/** Sets the theme before the first picture. Loaded by itself, ahead of everything. */

const asked = new URLSearchParams(location.search).get("theme");
let kept: string | null = null;
try {
  kept = localStorage.getItem("farflung:theme");
} catch {
  // no storage here: the system's preference decides
}
const chosen = asked ?? kept;
if (chosen === "light" || chosen === "dark") document.documentElement.dataset["theme"] = chosen;
if (new URLSearchParams(location.search).has("embed")) {
  document.documentElement.dataset["embed"] = "";
}
