// Mounts the pages.
import { render } from "preact";
import "uplot/dist/uPlot.min.css";
import "./style.css";
import { App } from "./app";
import { showLegibly } from "./legible";
import { begin } from "./state";

showLegibly();
render(<App />, document.getElementById("app")!);
void begin();
// A sign-in address opened where the page is already: only what stands behind its # changes.
addEventListener("hashchange", () => { if (location.hash) void begin(); });
