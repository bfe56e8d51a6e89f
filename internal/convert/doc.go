// Package convert turns configuration files of other systems into ours.
//
//	file, notes, err := convert.Choria(content, convert.AllRoles) // or Appsettings(content)
//	os.Stdout.Write(file)
//	for _, note := range notes {
//		fmt.Fprintln(os.Stderr, note)
//	}
//
// It promises that each key of the other file is either carried over or has a note that says why not, or what to do
// instead, with the line where it stands; and that notes never quote a secret.
//
// It does not look at the files that a configuration names, and does not check what it makes: package config does.
package convert
