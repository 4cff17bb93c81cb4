"""The web page that restores pictures: `jobs` (the restorations), `app` (HTTP), `static` (the page)."""
