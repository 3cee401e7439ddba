// Mounts the pages.
import { render } from "preact";
import "uplot/dist/uPlot.min.css";
import "./style.css";
import { App } from "./app";
import { begin } from "./state";

render(<App />, document.getElementById("app")!);
void begin();
