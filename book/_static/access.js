/* Two mends of what Docutils and MathJax write, for readers with a keyboard or a screen reader. */
(function () {
  "use strict";
  // A bibliography calls itself a list without having list items.
  document.addEventListener("DOMContentLoaded", () => {
    for (const list of document.querySelectorAll(".citation-list[role=list]")) list.removeAttribute("role");
  });
  // A formula that is wider than the page can be scrolled, so it must be reachable by keyboard.
  window.addEventListener("load", async () => {
    if (window.MathJax?.startup) await window.MathJax.startup.promise;
    for (const formula of document.querySelectorAll("mjx-container[display=true]")) {
      if (formula.scrollWidth > formula.clientWidth) formula.setAttribute("tabindex", "0");
    }
  });
})();
