package config

import (
	"fmt"
	"reflect"
	"strings"
)

// NamedFile is a file that a configuration names.
type NamedFile struct {
	Key  string // such as nats.token_file
	File string
}

// Files returns the files that have to be there when the process runs: secrets, certificates, lists. Files of service
// discovery are not among them, they may come later.
func (c *Config) Files() []NamedFile {
	var files []NamedFile
	findFiles(reflect.ValueOf(*c), "", &files)
	return files
}

func findFiles(v reflect.Value, path string, files *[]NamedFile) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			findFiles(v.Elem(), path, files)
		}
	case reflect.Slice:
		for i := range v.Len() {
			findFiles(v.Index(i), fmt.Sprintf("%s[%d]", path, i), files)
		}
	case reflect.Struct:
		for field, value := range v.Fields() {
			name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
			if !field.IsExported() || name == "-" || name == "scrape_failure_log_file" {
				continue
			}
			inside := path
			if options != "inline" {
				inside = strings.TrimPrefix(path+"."+name, ".")
			}
			if strings.HasSuffix(name, "_file") && value.Kind() == reflect.String && value.String() != "" {
				*files = append(*files, NamedFile{inside, value.String()})
				continue
			}
			findFiles(value, inside, files)
		}
	}
}
