package expo_test

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/thalweg/thalweg/internal/expo"
)

// checkFloat compares with what strconv says, which is what Prometheus writes.
func checkFloat(t *testing.T, v float64) {
	t.Helper()
	want := strconv.FormatFloat(v, 'g', -1, 64)
	if v == 0 {
		want = "0"
	}
	if got := string(expo.AppendFloat(nil, v)); got != want {
		t.Fatalf("%x is written as %s, want %s", math.Float64bits(v), got, want)
	}
}

func TestAppendFloat(t *testing.T) {
	for _, v := range []float64{
		0, math.Copysign(0, -1), 1, -1, 9, 10, 99, 100, 999999, 1e6, 1000001, 123456789, 1e15 - 1, 1e15, 1e15 + 2, 1 << 53, 1e21, 1e22, 1e300,
		0.1, 0.25, -0.5, 1.5, 0.001, 0.0001, 0.00012, 0.00001, 1e-9, 1.5e-9, 1e-10, 0.30000000000000004, 123456.789, 1234567.5, 1e6 - 0.5,
		999999.9999999999, 1e12 + 0.125, 1e14 + 0.5, 4294967296.001, 65000000000000.25, math.MaxFloat64, math.SmallestNonzeroFloat64,
		math.Inf(1), math.Inf(-1), math.NaN(), math.Pi, 1e5 + 1e-9, 999999.9999999995,
	} {
		checkFloat(t, v)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 300_000 {
		n, decimals := r.Uint64()>>r.UintN(64), r.IntN(24)
		checkFloat(t, float64(n)/math.Pow10(decimals))
		near, err := strconv.ParseFloat(strconv.FormatUint(n, 10)+"e-"+strconv.Itoa(decimals), 64)
		if err != nil {
			t.Fatal(err)
		}
		checkFloat(t, near)
		checkFloat(t, -near)
		checkFloat(t, math.Nextafter(near, 0))
		checkFloat(t, math.Nextafter(near, math.Inf(1)))
		checkFloat(t, math.Float64frombits(r.Uint64()))
	}
}

func FuzzAppendFloat(f *testing.F) {
	f.Add(math.Float64bits(0.1))
	f.Add(math.Float64bits(1234567))
	f.Fuzz(func(t *testing.T, bits uint64) { checkFloat(t, math.Float64frombits(bits)) })
}

func BenchmarkAppendFloat(b *testing.B) {
	for _, c := range []struct {
		name string
		v    float64
	}{{"count", 48213}, {"bytes", 16_724_979_712}, {"seconds", 184213.47}, {"long", 0.12345678901234567}} {
		b.Run(c.name, func(b *testing.B) {
			var buf []byte
			for b.Loop() {
				buf = expo.AppendFloat(buf[:0], c.v)
			}
		})
		b.Run(c.name+"/strconv", func(b *testing.B) {
			var buf []byte
			for b.Loop() {
				buf = strconv.AppendFloat(buf[:0], c.v, 'g', -1, 64)
			}
		})
	}
}
