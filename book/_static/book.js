// Lets the keyboard reach figures that scroll sideways.
addEventListener("load", () => {
  for (const figure of document.querySelectorAll(".bd-article figure")) {
    if (figure.scrollWidth > figure.clientWidth) figure.tabIndex = 0;
  }
});
