/** Finds the elements of an island and starts each one when it comes near the window, so that a page that is not scrolled loads nothing. */
export function mount<P>(name: string, start: (element: HTMLElement, props: P) => Promise<void> | void): void {
  const elements = document.querySelectorAll<HTMLElement>(`[data-island="${name}"]`);
  const begin = (element: HTMLElement) => {
    let props: P;
    try {
      props = JSON.parse(element.dataset["props"] ?? "{}") as P;
    } catch {
      return;
    }
    // What the server drew stays in place when an island cannot start: no WebGL, a broken network.
    Promise.resolve(start(element, props)).catch((error: unknown) => console.warn(`The ${name} could not start.`, error));
  };
  if (!("IntersectionObserver" in window)) {
    elements.forEach(begin);
    return;
  }
  const observer = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) {
          observer.unobserve(entry.target);
          begin(entry.target as HTMLElement);
        }
      }
    },
    { rootMargin: "200px" },
  );
  elements.forEach((element) => observer.observe(element));
}

/** The value of a design token; the stylesheet is the one place that names colours. */
export function token(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export function onSchemeChange(changed: () => void): void {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}

export const reducedMotion = (): boolean => matchMedia("(prefers-reduced-motion: reduce)").matches;

type Child = Node | string;

/** A small element builder. Text is always text: nothing is ever parsed as HTML. */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
