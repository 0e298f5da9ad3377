import "./map.css";
import { mount } from "../shared/island";
import type { Props } from "./view";

// The library is asked for only when a map comes near the window.
mount<Props>("map", async (element, props) => (await import("./view")).start(element, props));
