// Set before the first paint, so that a chosen theme does not flash.
try {
  const chosen = localStorage.getItem('redline-theme');
  if (chosen === 'dark' || chosen === 'light') document.documentElement.dataset.theme = chosen;
} catch (error) {
  console.warn('theme not remembered:', error.message);
}
