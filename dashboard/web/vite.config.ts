// Builds the pages into ../assets under stable names: the binary compiles them in, and a change shows as a diff.
import { defineConfig } from "vite";

export default defineConfig({
  base: "/",
  build: {
    outDir: "../assets",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    cssCodeSplit: false,
    assetsInlineLimit: 0,
    rollupOptions: {
      output: {
        entryFileNames: "app.js",
        chunkFileNames: "[name].js",
        assetFileNames: "app[extname]",
      },
    },
  },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  server: { proxy: { "/v1": { target: "http://127.0.0.1:8080", ws: true } } },
});
