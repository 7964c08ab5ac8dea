package editor

import (
	"slices"
	"strings"
)

const snapOrig = "_VSCODE_SNAP_ORIG"

// leaked are variables that an editor's window sets for its own child processes. A second editor
// that inherits them runs as plain Node, reports to the wrong window, or loads the wrong libraries.
// Variables that users set (VSCODE_PORTABLE, VSCODE_APPDATA, VSCODE_EXTENSIONS) are not included.
var leaked = map[string]bool{
	"ELECTRON_RUN_AS_NODE": true, "ELECTRON_NO_ATTACH_CONSOLE": true, "ELECTRON_NO_ASAR": true,
	"VSCODE_PID": true, "VSCODE_CWD": true, "VSCODE_IPC_HOOK": true, "VSCODE_IPC_HOOK_CLI": true,
	"VSCODE_IPC_HOOK_EXTHOST": true, "VSCODE_NLS_CONFIG": true, "VSCODE_NODE_OPTIONS": true,
	"VSCODE_NODE_REPL_EXTERNAL_MODULE": true, "VSCODE_CODE_CACHE_PATH": true, "VSCODE_CLI": true,
	"VSCODE_HANDLES_UNCAUGHT_ERRORS": true, "VSCODE_CRASH_REPORTER_PROCESS_TYPE": true,
	"VSCODE_ESM_ENTRYPOINT": true, "VSCODE_L10N_BUNDLE_LOCATION": true, "VSCODE_INSPECTOR_OPTIONS": true,
	"APPIMAGE": true, "APPDIR": true, "ARGV0": true, "OWD": true,
}

// libraryPaths are variables with paths of code or data, which a bundle (snap, AppImage) may have
// set to its own; lists are separated by colons.
var libraryPaths = map[string]bool{
	"PATH": true, "LD_LIBRARY_PATH": true, "LD_PRELOAD": true, "LOCPATH": true,
	"XDG_DATA_DIRS": true, "XDG_CONFIG_DIRS": true, "XDG_DATA_HOME": true, "XDG_CONFIG_HOME": true,
	"GTK_PATH": true, "GTK_EXE_PREFIX": true, "GTK_DATA_PREFIX": true, "GTK_IM_MODULE_FILE": true,
	"GDK_PIXBUF_MODULEDIR": true, "GDK_PIXBUF_MODULE_FILE": true, "GDK_BACKEND": true,
	"GIO_MODULE_DIR": true, "GIO_LAUNCHED_DESKTOP_FILE": true, "GSETTINGS_SCHEMA_DIR": true,
	"GI_TYPELIB_PATH": true, "GST_PLUGIN_SYSTEM_PATH": true, "QT_PLUGIN_PATH": true, "QML2_IMPORT_PATH": true,
	"PYTHONHOME": true, "PYTHONPATH": true, "PERLLIB": true, "FONTCONFIG_PATH": true, "FONTCONFIG_FILE": true,
	"LIBGL_DRIVERS_PATH": true, "LIBVA_DRIVERS_PATH": true,
}

// Environ returns the environment to start an editor with: base without the values set by the
// terminal of another editor, a snap or an AppImage.
//
//   - Visual Studio Code's snap saves the value of a variable X that it replaces in
//     X_VSCODE_SNAP_ORIG; X is restored (vscode issues 179086, 293910).
//   - Other variables of snaps and AppImages are removed, and in lists of directories the entries
//     below /snap/ (except /snap/bin) and $APPDIR.
func Environ(base []string) []string {
	values := map[string]string{}
	var order []string
	for _, kv := range base {
		name, value, ok := strings.Cut(kv, "=")
		if !ok || name == "" {
			continue
		}
		if _, twice := values[name]; !twice {
			order = append(order, name)
		}
		values[name] = value
	}
	for _, name := range slices.Clone(order) {
		if plain, ok := strings.CutSuffix(name, snapOrig); ok && plain != "" {
			if _, set := values[plain]; !set {
				order = append(order, plain)
			}
			values[plain] = values[name]
			delete(values, name)
			if values[plain] == "" {
				delete(values, plain)
			}
		}
	}
	appDir := strings.TrimRight(values["APPDIR"], "/")

	out := make([]string, 0, len(order))
	for _, name := range order {
		value, set := values[name]
		switch {
		case !set, leaked[name], name == "SNAP", strings.HasPrefix(name, "SNAP_"):
			continue
		case libraryPaths[name]:
			kept := withoutBundles(value, appDir)
			if kept == "" && value != "" {
				continue
			}
			value = kept
		}
		out = append(out, name+"="+value)
	}
	return out
}

// withoutBundles removes the entries of a list that are below a snap or AppImage.
func withoutBundles(list, appDir string) string {
	entries := strings.Split(list, ":")
	kept := slices.DeleteFunc(entries, func(dir string) bool {
		inSnap := strings.HasPrefix(dir, "/snap/") && dir != "/snap/bin"
		inApp := appDir != "" && strings.HasPrefix(dir+"/", appDir+"/")
		return inSnap || inApp
	})
	return strings.Join(kept, ":")
}
