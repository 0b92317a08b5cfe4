//! No text panics the reader of manifests, and what it lets through can be planned for.

#![no_main]

use lbcore::allocator::PoolAllocator;
use lbcore::manifest::{self, Corpus, IpAddressPool, Kinds, SourceFile};
use lbcore::plan;
use libfuzzer_sys::fuzz_target;

// Loads that follow each other are cut by a form feed, the files of one by a vertical tab.
fuzz_target!(|text: &str| {
    let mut corpus = Corpus::new(manifest::kinds(Kinds::new()));
    let mut allocator = PoolAllocator::new();
    for load in text.split('\x0c').take(4) {
        let files: Vec<_> =
            load.split('\x0b').enumerate().map(|(n, text)| SourceFile::new(n.to_string(), text)).collect();
        corpus.load(&files);
        let again = corpus.load(&files);
        assert!(!again.changed, "the same files again change nothing: {again:?}");
        let world = manifest::world(corpus.objects());
        // The rules between objects leave nothing that a set of pools refuses.
        assert_eq!(world.pools.len(), corpus.objects().count::<IpAddressPool>());
        let allocations = plan::allocate(&mut allocator, &world);
        plan::outlook(&world, &allocations);
    }
});
