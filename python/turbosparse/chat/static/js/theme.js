// Before the first paint: the theme that was chosen last. A classic script, so that nothing flashes.
document.documentElement.dataset.theme = localStorage.getItem("theme") || "system";
