// Follows the server's events and puts what changed in place: no reload, the focus stays where it is.
"use strict";

(() => {
  const address = document.body.dataset.live;
  if (!address || !window.EventSource) return;
  let wanted = "";
  let busy = false;

  const shown = () => document.getElementById("live");

  async function refresh() {
    if (busy || !wanted || wanted === shown().dataset.version) return;
    busy = true;
    try {
      const answer = await fetch(location.href, { credentials: "same-origin" });
      if (!answer.ok || answer.redirected) return location.reload();
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const next = page.getElementById("live");
      const before = shown();
      const focused = before.contains(document.activeElement) ? document.activeElement.id : "";
      const places = [...before.querySelectorAll(".scroll")].map((part) => part.scrollLeft);
      const said = next.dataset.say !== before.dataset.say;
      before.replaceWith(document.importNode(next, true));
      [...shown().querySelectorAll(".scroll")].forEach((part, index) => { part.scrollLeft = places[index] || 0; });
      if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
      if (said) document.getElementById("said").textContent = next.dataset.say;
    } finally {
      setTimeout(() => { busy = false; refresh(); }, 1000);
    }
  }

  new EventSource(address).onmessage = (event) => { wanted = event.data; refresh(); };
})();
