import "./chart.css";
import { mount } from "../shared/island";
import type { Props } from "./view";

mount<Props>("chart", async (element, props) => (await import("./view")).start(element, props));
