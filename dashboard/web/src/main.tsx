// Mounts the pages.
import { render } from "preact";
import "./style.css";

render(<main>Nilometer</main>, document.getElementById("app")!);
