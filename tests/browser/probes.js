// What the checker asks a page. Loaded into every page under test as `probes`.
window.probes = (() => {
  const visible = (e) =>
    e.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true });

  const describe = (e) => {
    const text = (e.getAttribute("aria-label") ?? e.textContent).trim().slice(0, 40);
    const name = e.id ? `#${e.id}` : `.${[...e.classList].join(".")}`;
    return `<${e.localName}${name}> "${text.replace(/\s+/g, " ")}"`;
  };

  const scrollBoxes = () =>
    [...document.body.querySelectorAll("*")].filter((e) => {
      const style = getComputedStyle(e);
      const across = e.scrollWidth > e.clientWidth + 1 && style.overflowX !== "visible";
      const down = e.scrollHeight > e.clientHeight + 1 && style.overflowY !== "visible";
      const scrolls =
        (across && /auto|scroll/.test(style.overflowX)) ||
        (down && /auto|scroll/.test(style.overflowY));
      return scrolls && e.clientWidth > 1 && visible(e);
    });

  // A visible label stands for the control it works, which may itself be hidden.
  const controls = () => {
    const query =
      "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex]";
    const own = [...document.querySelectorAll(query)].filter(
      (e) => visible(e) && !e.disabled && e.getAttribute("tabindex") !== "-1",
    );
    const labelled = [...document.querySelectorAll("label[for]")]
      .filter((e) => visible(e) && e.offsetWidth * e.offsetHeight > 0)
      .map((e) => e.control)
      .filter(Boolean);
    return [...new Set([...own, ...labelled])];
  };

  const outlined = (e) => getComputedStyle(e).outlineStyle !== "none";

  // What there is to reach is noted first: furo shows "back to top" on the way.
  const reached = new Set();
  const unmarked = new Set();
  let expected = [];
  const watch = () => {
    reached.clear();
    unmarked.clear();
    expected = controls();
    document.activeElement?.blur();
    window.getSelection().removeAllRanges();
    document.addEventListener("focusin", ({ target }) => {
      reached.add(target);
      const marked = [target, ...(target.labels ?? [])].some(outlined);
      if (!marked) unmarked.add(target);
    });
    return expected.length + scrollBoxes().length;
  };

  const unreached = () => {
    const missed = expected.filter((e) => !reached.has(e));
    const stuck = scrollBoxes().filter(
      (box) => ![...reached].some((e) => box === e || box.contains(e)),
    );
    return [
      ...missed.map((e) => `Tab does not reach ${describe(e)}`),
      ...stuck.map((e) => `Tab does not reach the scrolling ${describe(e)}`),
      ...[...unmarked].map((e) => `no visible focus on ${describe(e)}`),
    ];
  };

  // furo lets its content column scroll on phones, which is the page scrolling.
  const sideways = () =>
    [document.documentElement, document.body, document.querySelector(".content")]
      .filter((e) => e && e.scrollWidth > e.clientWidth)
      .map((e) => `${e.localName} is ${e.scrollWidth} px wide in ${e.clientWidth} px`);

  const axeFaults = async () => {
    const { violations } = await axe.run(document, { resultTypes: ["violations"] });
    return violations.flatMap(({ id, nodes }) =>
      nodes.map(({ target, any }) => `${id}: ${target} ${any[0]?.message ?? ""}`),
    );
  };

  const loadEverything = () => {
    const images = [...document.images];
    images.forEach((image) => (image.loading = "eager"));
    return Promise.allSettled(images.filter(visible).map((image) => image.decode()));
  };

  return { axeFaults, loadEverything, sideways, unreached, watch };
})();
