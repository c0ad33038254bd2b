// A link may carry the token behind its #, which no browser sends to a server: it signs in, and the address forgets it.
"use strict";

(() => {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  history.replaceState(null, "", location.pathname);
  const form = document.querySelector("form");
  form.elements.token.value = token;
  form.requestSubmit();
})();
