// The theme, and what happens when the page is opened.
const THEMES = ["system", "light", "dark"];
const system = matchMedia("(prefers-color-scheme: dark)");
let theme = THEMES.find((it) => location.hash === `#${it}`) ?? "system";

function applyTheme() {
  const isDark = theme === "dark" || (theme === "system" && system.matches);
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  byId("theme").textContent = `theme: ${theme}`;
  readPalette();
}

function redraw() {
  drawTreemap();
  viewer?.redraw();
}

applyTheme();
const viewer = DATA.graphs ? startGraph() : null;
startLayers();
redraw();
byId("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  applyTheme();
  redraw();
});
system.addEventListener("change", () => { applyTheme(); redraw(); });
addEventListener("hashchange", () => {
  const asked = THEMES.find((it) => location.hash === `#${it}`);
  if (asked) { theme = asked; applyTheme(); redraw(); }
});
let width = innerWidth;
addEventListener("resize", () => {
  if (width === innerWidth) return;
  width = innerWidth;
  viewer?.fit();
  redraw();
});
document.documentElement.dataset.opened = Math.round(performance.now());
